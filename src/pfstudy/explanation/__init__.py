"""Where in an image a network sees a class: Grad-CAM (Selvaraju et al. 2017, section 3)."""
