"""Gene sets: reading, finding, matching to an expression panel, and scoring of profiles.

`gmt` and `inline` read them, `collections` ships and finds them, `match` maps their genes to panel
columns, and `scoring` scores expression profiles with them. Gene identifiers are in
`molquery.genes`; predicting scores of slides is in `molquery.query`.
"""
