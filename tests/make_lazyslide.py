"""Writes tests/data/lazyslide.zarr.zip with the real lazyslide 0.13 and wsidata 0.12.

Run it in an environment of its own (`pip install lazyslide wsidata tifffile`); they are no
dependency of molquery. The tile vectors are random; the aggregation and the store are LazySlide's.
Tiles and images are left out of the archive, tables are whole. `add_features` names a table
`resnet50`, where `feature_extraction` names it `resnet50_tiles`: both are read.
"""

import zipfile
from pathlib import Path

import lazyslide as zs
import numpy as np
import tifffile
from wsidata import io, open_wsi

rng = np.random.default_rng(0)
image = np.full((1024, 1024, 3), 240, np.uint8)
image[200:800, 200:800] = rng.integers(80, 200, (600, 600, 3), dtype=np.uint8)
tifffile.imwrite(
    "s1.tiff", image, tile=(256, 256), resolution=(20000, 20000), resolutionunit="CENTIMETER",
    photometric="rgb",
)  # fmt: skip
wsi = open_wsi("s1.tiff", store="s1.zarr")
zs.pp.find_tissues(wsi)
zs.pp.tile_tissues(wsi, 128, mpp=0.5)
for name in ("resnet50", "uni"):
    values = rng.standard_normal((len(wsi.shapes["tiles"]), 16)).astype(np.float32)
    io.add_features(wsi, name, "tiles", values)
    zs.tl.feature_aggregation(wsi, feature_key=name)
wsi.write()
with zipfile.ZipFile("lazyslide.zarr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    for path in sorted(Path("s1.zarr").rglob("*")):
        if path.is_file() and ("tables" in path.parts or path.parent == Path("s1.zarr")):
            archive.write(path, path.relative_to("s1.zarr"))
