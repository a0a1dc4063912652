"""records.py: samples as the program reads them (multimodal/record.h): one JSON object a line, media paths relative to the file."""
import json
from pathlib import Path

from concepts import prompt


def record(identifier: str, content, language: str, answer: str, **extra) -> dict:
    """content: text, or {"kind": ..., "uri": ...}; the question follows it directly, as it follows a medium in `caption`."""
    parts = [content + prompt(language)] if isinstance(content, str) else [content, prompt(language)]
    messages = [{"role": "user", "parts": parts}, {"role": "assistant", "parts": [answer]}]
    return {"id": identifier, "lang": language, **extra, "messages": messages}


def media(kind: str, uri: str) -> dict:
    return {"kind": kind, "uri": uri}


def answer_of(row: dict) -> str:
    return row["messages"][-1]["parts"][0]


def media_of(row: dict):
    """The row's one medium, or None."""
    part = row["messages"][0]["parts"][0]
    return part if isinstance(part, dict) else None


def write_jsonl(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    temporary.rename(path)


def read_jsonl(path: Path) -> list:
    rows = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as fault:
                raise ValueError(f"{path}:{number}: not JSON ({fault})") from None
    return rows
