"""The images: their Dockerfiles read as data, linted, and drilled without a container engine."""
