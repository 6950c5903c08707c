"""Speed, recall, memory and size of molquery beside other ways to search, in one run.

    python -m benchmarks.scale [PARTS] [--rows N] ...        (or: make bench)

`archive` makes the vectors, `methods` holds every way to search, `molquery_methods` those of this
package, `measure` runs one measurement in the process that it was started in, `plan` says what is
measured, `run` starts the processes and keeps what they found, `report` makes tables and figure.
"""
