"""A small real cohort: H&E regions of breast tumours with their own RNA profiles."""
