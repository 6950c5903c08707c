"""Held-out evaluation: how far the predictions of a space can be trusted.

`metrics` (retrieval, correlation, calibration), `resample` (bootstrap intervals over patients),
`geometry` (hubs, modality gap) and `splits` (folds that keep patients or sites whole) take arrays
and return arrays; they read no database and print nothing.
"""
