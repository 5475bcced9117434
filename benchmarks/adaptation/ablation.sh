#!/usr/bin/env bash
# Why pairs gain what they gain: one thing changed at a time, on the pair that was tuned on.
#
#     ALIGNFLOW_DATA=DIR benchmarks/adaptation/ablation.sh WORK RESULTS [ARGUMENT ...]
#
# WORK is that of everything.sh, whose generators and alignments are taken. Each variant has a folder
# of its own in RESULTS; `table.py --baseline as_it_is` compares them. Further arguments go to each
# run.py.
set -euo pipefail
source "$(dirname "$0")/pair.sh"

variant() { # NAME --arms ARM ... [--set OVERRIDE ...]; every segmenter under strong augmentation
  local name="$1"
  shift
  pair "$name" Kvasir-SEG PolypGen "${centre[@]}" --target_value C2 --draws 0 \
    --set 'segment.augmentation="strong"' "$@"
}

pairs=(unaligned aligned ceiling)
variant as_it_is --arms source_aug "${pairs[@]}"
# appearance or anatomy: either generator's images to masks of the site's pool
variant site_masks --arms unaligned aligned --set pairs.from_site=true
# images of the source carried over to the site: noised to t = start_time, and back by either flow
variant translated --arms unaligned aligned \
  --set inference.start_time=0.5 segment.synthetic_share=0.5
variant translated_late --arms aligned \
  --set inference.start_time=0.7 segment.synthetic_share=0.5
# share or realism: ceiling has real images of the site in the place of pairs
variant share_quarter --arms "${pairs[@]}" --set segment.synthetic_share=0.25
variant share_half --arms "${pairs[@]}" --set segment.synthetic_share=0.5
variant synthetic_first --arms "${pairs[@]}" \
  --set 'segment.schedule="synthetic_first"' segment.synthetic_epochs=2
variant source_anatomy --arms aligned --set 'align.anatomy="source"'
# reward or gradient
variant weak_mask_term --arms aligned --set align.faithfulness=0.02
variant full_gradient --arms aligned --set 'align.gradient="full"'
variant colour_alone --arms aligned \
  --set 'align.space_weights={"encoder": 0.0, "colour": 1.0, "texture": 0.0, "layout": 0.0}'
