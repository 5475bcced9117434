import os
import subprocess
import sys

import pytest

from alignflow.errors import InputError, find_input_error

HEAD = """
from alignflow.errors import InputError, print_input_errors_as_one_line
print_input_errors_as_one_line()
"""


def run(script):
    return subprocess.run([sys.executable, "-c", HEAD + script], capture_output=True, text=True)


@pytest.mark.parametrize(
    "script",
    [
        "raise InputError(\"image 'a.png': empty; remove it\")",
        """
try:
    try:
        raise InputError("image 'a.png': empty; remove it")
    except ValueError as error:
        raise RuntimeError("many lines") from error
except RuntimeError as error:
    raise RuntimeError("more lines") from error
""",
        """
from monai.bundle import ConfigParser
def fail():
    raise InputError("image 'a.png': empty; remove it")
parser = ConfigParser({"a": "$[@b]", "b": "$fail()"}, globals={"fail": fail})
parser.get_parsed_content("a")
""",
    ],
)
def test_input_errors_end_the_process_with_their_line_alone(script):
    done = run(script)
    assert done.returncode == 1
    assert done.stderr == "error: image 'a.png': empty; remove it\n"
    assert done.stdout == ""


def test_other_errors_keep_their_traceback():
    done = run('raise ValueError("not of the input")')
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "ValueError: not of the input" in done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "raise KeyboardInterrupt",
        """
try:
    raise KeyboardInterrupt
except KeyboardInterrupt:
    raise RuntimeError("in a library")
""",
    ],
)
def test_ctrl_c_ends_with_a_line(script):
    done = run(script)
    assert done.returncode != 0
    assert done.stderr == "interrupted; the same command resumes from here\n"


def test_the_line_does_not_stand_behind_a_bar():
    script = "from tqdm import tqdm\nbar = tqdm(total=9)\nbar.update(1)\nraise InputError('line')"
    assert run(script).stderr.splitlines()[-1] == "error: line"


def test_letters_of_any_alphabet_where_the_locale_is_c():
    script = "import os\nprint('Gr\\u00f6\\u00dfe', os.fsdecode(b'gr\\xc3\\xbcn'))"
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    line = [sys.executable, "-c", HEAD + script]
    done = subprocess.run(line, capture_output=True, env=os.environ | locale)
    assert done.stdout.decode() == "Gr\u00f6\u00dfe gr\u00fcn\n"


def chained(*errors):
    for cause, error in zip(errors[1:], errors, strict=False):
        error.__cause__ = cause
    return errors[0]


def test_finds_the_first_in_the_chain():
    first, second = InputError("first"), InputError("second")
    assert find_input_error(chained(RuntimeError(), KeyError(), first, second)) is first
    assert find_input_error(chained(RuntimeError(), KeyError())) is None
    assert find_input_error(None) is None


def test_control_characters_are_shown_and_not_sent():
    hostile = "image 'a\n\x1b[2Jb\r\u202e\u00e9 \u4e2d.png'"
    assert str(InputError(hostile)) == "image 'a\\n\\x1b[2Jb\\r\\u202e\u00e9 \u4e2d.png'"
    assert str(InputError("first\n", "second")) == "first\\n\nsecond"


def test_is_a_value_error():
    with pytest.raises(ValueError, match="line"):
        raise InputError("line")
