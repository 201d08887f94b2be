"""Where the files of a model are, and how they are read: for priors, text encoders and generators alike."""
