"""Learning a shared space from slides and profiles of the same patients. torch stays in here."""
