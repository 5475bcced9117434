# Sourced by everything.sh and ablation.sh, whose arguments it reads: WORK RESULTS [ARGUMENT ...]
: "${ALIGNFLOW_DATA:?the folder of Kvasir-SEG, CVC-ClinicDB, PolypGen, RIM-ONE_v2, Drishti-GS1_ROI}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
work="$1" results="$2"
shift 2
more=("$@")

pair() { # NAME SOURCE TARGET ARGUMENT ...
  local name="$1" source="$2" target="$3"
  shift 3
  "${PYTHON:-python}" "$here/run.py" --work "$work" --results "$results" --name "$name" \
    --source "$ALIGNFLOW_DATA/$source" --target "$ALIGNFLOW_DATA/$target" "$@" "${more[@]}"
}

# examinations of C1 from the names; C2 is numbered throughout, tens of neighbours stay together
centre=(--target_column center --target_group_pattern '^(C1__\w+?OLCV1|C2__EndoCV2021_\d{5}|.+)')
