"""Writes tests/data/cmappy.gct with cmapPy 4.0, and its own reading of GCT files beside it.

Run it in an environment of its own (`pip install cmapPy "numpy>=2" "pandas>=2.2,<3"`); cmapPy is no
dependency of molquery. `cmappy.json` holds what cmapPy reads from the file that it wrote and from
one of version 1.2: sample ids, row ids, values, and the metadata of samples.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from cmapPy.pandasGEXpress import GCToo
from cmapPy.pandasGEXpress.parse import parse
from cmapPy.pandasGEXpress.write_gct import write

DATA = Path(__file__).parent / "data"
GENES = ["TP53", "EGFR", "HLA-A", "KRT5", "CXCL9", "CD8A", "MKI67", "ESR1", "CCN2", "STAT1"]
PROBES = [f"{100 + i}_at" for i in range(len(GENES))]
SAMPLES = [f"TCGA-AA-{i:04d}-01" for i in range(4)]

values = np.random.default_rng(0).gamma(2, 3, (len(GENES), len(SAMPLES))).round(4)
values[3, 1] = np.nan
made = GCToo.GCToo(
    data_df=pd.DataFrame(values, PROBES, SAMPLES),
    row_metadata_df=pd.DataFrame({"pr_gene_symbol": GENES, "pr_is_lm": 1}, PROBES),
    col_metadata_df=pd.DataFrame(
        {"cell_id": ["A549", "MCF7", None, "A549"], "dose": [1.5, -666, 3.0, 10.0]}, SAMPLES
    ),
)
write(made, str(DATA / "cmappy.gct"), data_float_format="%.4f")

old = DATA / "gct12.gct"
lines = ["#1.2", f"{len(GENES)}\t{len(SAMPLES)}", "\t".join(["Name", "Description", *SAMPLES])]
lines += [
    "\t".join([gene, "na", *(f"{v:.4f}" for v in np.nan_to_num(row, nan=-666))])
    for gene, row in zip(GENES, values, strict=True)
]
old.write_text("\n".join(lines) + "\n")

told = {}
for path in (DATA / "cmappy.gct", old):
    got = parse(str(path))
    told[path.name] = {
        "samples": list(got.data_df.columns),
        "rows": list(got.data_df.index),
        "values": json.loads(got.data_df.to_json(orient="values", double_precision=15)),
        "metadata": json.loads(got.col_metadata_df.to_json()),
    }
(DATA / "cmappy.json").write_text(json.dumps(told, indent=1) + "\n")
