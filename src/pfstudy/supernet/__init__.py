"""Networks that hold several operations at every site: mixtures of them, or paths through them."""
