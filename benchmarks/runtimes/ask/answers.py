"""How a runtime is asked, in a process of its own and with nothing of moemerge.

The argument is a file of JSON, a list of maps: `model` (a folder or file), `tokens`, `lengths`, `texts`, `vocabulary`.
An answer is a line of JSON after `ANSWER`: `logprobs` of the token after each length, `[lengths, vocabulary]`, and
`ids` of each text; or `error`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER = "answer: "
"""What a line with an answer begins with: libraries print as well."""
Answer = Callable[[dict[str, Any]], dict[str, Any]]


def answer_all(answer: Answer) -> None:
    """Answers, one line each. Whatever goes wrong is the answer: it is what a user would see."""
    for asked in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            said = answer(asked)
        except Exception as error:  # a runtime's own, of any kind
            said = {"error": f"{type(error).__name__}: {error}"}
        print(f"\n{ANSWER}{json.dumps(said)}", flush=True)
