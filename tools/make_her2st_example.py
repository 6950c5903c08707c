"""Build examples/her2st/ from a folder with the source files.

    python tools/make_her2st_example.py SOURCE_DIR

SOURCE_DIR holds `spots.parquet`, `<section>.counts.tsv.gz` and `<section>.jpg`; where they come
from, and every change that is made here, is written in examples/her2st/README.md. The same source
and library versions give the same bytes.
"""

import argparse
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
from PIL import Image

OUTPUT = Path(__file__).parents[1] / "examples" / "her2st"
SECTIONS = ("B4", "C2", "C3", "C4", "C5")  # those with RNA
PICTURED = "C4"
COHORT = "HER2ST"
ENCODER = "efficientnet-lite0"
MIN_SHARE = 0.05  # of the spots in which a gene must be seen: smaller file, same Hallmark sets
WIDTH = 1600  # pixels: enough to see glands, under 1 MB
PITCH_UM = 200.0  # centre to centre, Spatial Transcriptomics arrays
LIMIT = 8_000_000  # bytes, the whole folder


def um_per_pixel(spots: pa.Table) -> float:
    """Micrometres per pixel of the full image: 200 um over the fitted distance of array steps."""
    steps = [
        np.polyfit(spots[f"array_{axis}"].to_numpy(), spots[f"pixel_{axis}"].to_numpy(), 1)[0]
        for axis in ("x", "y")
    ]
    return PITCH_UM / float(np.mean(steps))


def write_image(source: Path) -> float:
    """Write the pictured section, 1,600 px wide; returns image pixels per pixel of the source."""
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(source / f"{PICTURED}.jpg") as full:
        scale = WIDTH / full.width
        small = full.convert("RGB").resize(
            (WIDTH, round(full.height * scale)), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
    small.save(OUTPUT / f"{PICTURED}.jpg", quality=85, optimize=True)
    return scale


def write_spots(source: Path) -> pa.Table:
    spots = pq.read_table(source / "spots.parquet").sort_by("spot_id")
    vectors = spots["embedding"].combine_chunks()
    half = vectors.flatten().to_numpy().astype(np.float16)
    pictured = spots.filter(pc.equal(spots["section"], PICTURED))
    table = pa.table(
        {
            "slide_id": _suffixed(spots["spot_id"], "-HE"),
            "spot_id": spots["spot_id"],
            "section": spots["section"],
            "patient_id": spots["patient"],
            "cohort": [COHORT] * len(spots),
            "pixel_x": spots["pixel_x"].combine_chunks(),
            "pixel_y": spots["pixel_y"].combine_chunks(),
            "total_umi": spots["total_umi"],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(half, pa.float16()), vectors.type.list_size
            ),
        }
    )
    table = table.replace_schema_metadata(
        {
            "encoder": ENCODER,
            "image": f"{PICTURED}.jpg",
            "image_section": PICTURED,
            "image_scale": repr(write_image(source)),
            "um_per_pixel": repr(round(um_per_pixel(pictured), 3)),
        }
    )
    pq.write_table(
        table,
        OUTPUT / "spots.parquet",
        compression="zstd",
        compression_level=19,
        use_dictionary=["section", "patient_id", "cohort"],
        write_statistics=False,
    )
    return table


def write_counts(source: Path, spots: pa.Table) -> tuple[int, int]:
    """Write the counts of the sections with RNA; returns spots and genes written."""
    ids: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    for section in SECTIONS:
        table = csv.read_csv(
            source / f"{section}.counts.tsv.gz",
            parse_options=csv.ParseOptions(delimiter="\t"),
            read_options=csv.ReadOptions(block_size=1 << 26),
        )
        names = table.column_names
        ids += [f"{section}_{spot}" for spot in table.column(0).to_pylist()]
        parts.append({names[i]: table.column(i).to_numpy() for i in range(1, len(names))})
    genes = sorted(set().union(*parts))
    counts = np.zeros((len(ids), len(genes)), np.int64)
    start = 0
    for part in parts:  # a gene that a section's table leaves out was not seen there
        rows = len(next(iter(part.values())))
        for j, gene in enumerate(genes):
            if gene in part:
                counts[start : start + rows, j] = part[gene]
        start += rows
    order = {spot: i for i, spot in enumerate(ids)}
    kept = [i for i in range(len(spots)) if spots["spot_id"][i].as_py() in order]
    chosen = spots.take(pa.array(kept))
    counts = counts[[order[spot] for spot in chosen["spot_id"].to_pylist()]]
    often = (counts > 0).mean(axis=0) >= MIN_SHARE
    columns = {
        "profile_id": _suffixed(chosen["spot_id"], "-RNA"),
        **{name: chosen[name] for name in ("spot_id", "section", "patient_id", "cohort")},
        **{genes[j]: counts[:, j] for j in np.flatnonzero(often)},
    }
    text = io.BytesIO()
    csv.write_csv(pa.table(columns), text, csv.WriteOptions(delimiter="\t", quoting_style="none"))
    with (
        (OUTPUT / "counts.tsv.gz").open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=9, mtime=0) as packed,
    ):
        packed.write(text.getvalue())
    return len(chosen), int(often.sum())


def _suffixed(ids: pa.ChunkedArray, suffix: str) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(ids, suffix, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, metavar="SOURCE_DIR")
    source = parser.parse_args().source
    OUTPUT.mkdir(parents=True, exist_ok=True)
    spots = write_spots(source)
    n_profiles, n_genes = write_counts(source, spots)
    sizes = {p.name: p.stat().st_size for p in sorted(OUTPUT.iterdir()) if p.is_file()}
    for name, size in sizes.items():
        print(f"{size:>9,}  {name}")
    print(
        f"{len(spots)} spots, {n_profiles} with RNA, {n_genes} genes, {sum(sizes.values()):,} bytes"
    )
    if sum(sizes.values()) > LIMIT:
        raise SystemExit(f"the folder is over {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
