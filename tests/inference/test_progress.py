from pathlib import Path

import pytest

from alignflow.inference.progress import FOLDER, PairProgress, pair_files

COUNTS = {"drawn": 4, "rejected": {"empty": 1}, "accepted_after_max_attempts": [2]}


def progress(folder, count=10, seed=0, again=2, **config):
    return PairProgress(
        output_dir=str(folder),
        requests=[f"pair {k}" for k in range(count)],
        batch_size=4,
        identity={"seed": seed, "config": config},
        again=again,
    )


def write(made, *batches):
    """As the writer does: the files of a batch, then its note."""
    for batch in batches:
        indices = list(range(4 * batch, min(4 * batch + 4, len(made))))
        for k in indices:
            for kind in ("images", "labels"):
                path = made.output_dir / kind / f"pair_{k:05d}.nii.gz"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"pair")
        made.record(indices, COUNTS | {"drawn": batch})


def indices(made):
    return list(made.remaining().indices)


def test_a_new_run_has_everything_to_do(tmp_path):
    made = progress(tmp_path)
    assert indices(made) == list(range(10)) and list(made.remaining()) == made.requests


def test_whole_batches_are_left_out_and_the_first_made_again(tmp_path):
    first = progress(tmp_path)
    first.begin()
    write(first, 0, 2)
    again = progress(tmp_path)
    again.begin()
    assert indices(again) == list(range(8))
    assert again.counts == {0: COUNTS | {"drawn": 0}, 2: COUNTS | {"drawn": 2}}
    assert len(pair_files(tmp_path)) == 2 * (4 + 2)
    assert indices(progress(tmp_path, again=8)) == list(range(8))
    assert indices(progress(tmp_path, again=9)) == list(range(10))


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_batch_without_all_of_its_files_is_done_again(tmp_path, kind):
    first = progress(tmp_path)
    first.begin()
    write(first, 1, 2)
    (tmp_path / kind / "pair_00009.nii.gz").unlink()
    assert indices(progress(tmp_path)) == [0, 1, 2, 3, 8, 9]


def test_channels_of_nnunet_are_one_pair(tmp_path):
    first = progress(tmp_path)
    first.begin()
    write(first, 1, 2)
    (tmp_path / "images").rename(tmp_path / "imagesTr")
    (tmp_path / "labels").rename(tmp_path / "labelsTr")
    for path in (tmp_path / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".", "_0000.", 1)))
        path.with_name(path.name.replace(".", "_0001.", 1)).touch()
    assert indices(progress(tmp_path)) == [0, 1, 2, 3]
    (tmp_path / "labelsTr/pair_00009.nii.gz").unlink()
    assert indices(progress(tmp_path)) == [0, 1, 2, 3, 8, 9]
    progress(tmp_path, seed=1).begin()
    assert pair_files(tmp_path) == [] and not (tmp_path / "imagesTr").exists()


def test_pairs_of_another_run_are_removed(tmp_path):
    first = progress(tmp_path, steps=1)
    first.begin()
    write(first, 0, 1, 2)
    (tmp_path / "images/.partial-12-pair_00003.png").touch()
    for other in (progress(tmp_path, seed=1), progress(tmp_path, steps=2)):
        assert indices(other) == list(range(10))
    other.begin()
    assert pair_files(tmp_path) == []
    assert indices(progress(tmp_path, steps=1)) == list(range(10))


def test_where_pairs_go_is_no_part_of_the_run(tmp_path):
    first = progress(tmp_path, dicomweb_url="a", output_dir="b")
    first.begin()
    write(first, 1)
    assert indices(progress(tmp_path, dicomweb_url="c", output_dir="d")) == [0, 1, 2, 3, 8, 9]


def test_a_note_that_a_kill_cut_off_counts_for_nothing(tmp_path):
    first = progress(tmp_path)
    first.begin()
    write(first, 1, 2)
    [notes] = (tmp_path / FOLDER).glob("batches*")
    whole = notes.read_bytes()
    for length in range(len(whole)):
        notes.write_bytes(whole[:length])
        assert set(progress(tmp_path).counts) <= {1, 2}
    notes.write_bytes(whole[:-9])
    again = progress(tmp_path)
    assert indices(again) == [0, 1, 2, 3, 8, 9]
    write(again, 2)
    assert indices(progress(tmp_path)) == [0, 1, 2, 3]


def test_files_that_a_server_has(tmp_path):
    made = progress(tmp_path)
    made.begin()
    write(made, 0)
    path = Path(pair_files(tmp_path)[0])
    made.note_stored("http://a", path)
    assert made.stored_name("http://a", path) in progress(tmp_path).stored
    assert made.stored_name("http://b", path) not in progress(tmp_path).stored
    made.finish()
    assert not (tmp_path / FOLDER).exists() and progress(tmp_path).stored == set()
