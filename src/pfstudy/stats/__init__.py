"""Statistics of studies: accuracies in, statements with their uncertainty out."""
