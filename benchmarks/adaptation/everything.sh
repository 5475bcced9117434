#!/usr/bin/env bash
# Every run of the table: four pairs, the control, the curve over references, 100 labelled images.
#
#     ALIGNFLOW_DATA=DIR benchmarks/adaptation/everything.sh WORK RESULTS [ARGUMENT ...]
#
# Further arguments go to each run.py (--dry_run lists the runs, --quick tries the machinery). What
# has a result is skipped, so a stopped call is given again; started several times, the calls share
# the runs out among them. The pairs come in the order of what a table without the rest is worth.
set -euo pipefail
source "$(dirname "$0")/pair.sh"

sequences=(--target_group_column sequence)
aligned=(--arms source_aug aligned aligned_aug)

pair kvasir_c2 Kvasir-SEG PolypGen "${centre[@]}" --target_value C2
pair kvasir_c1 Kvasir-SEG PolypGen "${centre[@]}" --target_value C1
pair kvasir_clinic Kvasir-SEG CVC-ClinicDB "${sequences[@]}"
pair rim_drishti RIM-ONE_v2 Drishti-GS1_ROI --mask_threshold 0
pair clinic_kvasir CVC-ClinicDB Kvasir-SEG --source_group_column sequence
pair kvasir_c2 Kvasir-SEG PolypGen "${centre[@]}" --target_value C2 "${aligned[@]}" \
  --references 1 2 5 50 --draws 0
pair kvasir_c2 Kvasir-SEG PolypGen "${centre[@]}" --target_value C2 --labelled 100 --draws 0
