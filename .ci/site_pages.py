"""Pages of the site that are no file of `docs/`: the front page, the notebook, and two of the root.

A hook of mkdocs. Links from `docs/` to files of the repository that are no page are shown as text.
"""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FROM_ROOT = ("CONTRIBUTING.md", "CHANGELOG.md")


def on_config(config):
    """Put pages of `docs/` that the configuration does not name at the end."""
    named = set(re.findall(r"[\w-]+\.md", json.dumps(config["nav"])))
    others = sorted(p.name for p in (ROOT / "docs").glob("*.md") if p.name not in named)
    if others:
        config["nav"].append({"More": others})
    return config


def on_files(files, config):
    """Add the generated pages."""
    pages = {name: (ROOT / name).read_text() for name in FROM_ROOT}
    pages["index.md"] = (ROOT / "README.md").read_text()
    pages["tutorial-notebook.md"] = notebook((ROOT / "docs" / "tutorial.ipynb").read_text())
    for name, text in pages.items():
        inside = text if name.startswith("tutorial") else re.sub(r"\]\(docs/", "](", text)
        files.append(File.generated(config, name, content=inside))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at pages of the site; a link to another file of the repository becomes text."""

    def target(match):
        text, path, anchor = match[1], match[2], match[3] or ""
        if "://" in path or path.startswith("data:"):
            return match[0]
        path = path.removeprefix("../")
        path = {"README.md": "index.md", "tutorial.ipynb": "tutorial-notebook.md"}.get(path, path)
        exists = (ROOT / path).exists() or (ROOT / "docs" / path).exists()
        if exists and path not in files.src_uris:
            return text
        return f"[{text}]({path}{anchor})"  # mkdocs warns of what is not there

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else LINK.sub(target, p) for p in parts)


def notebook(text):
    """A notebook as a page: its cells, with the text and the pictures that they showed."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![Figure](data:image/png;base64,{data['image/png']})")
            else:
                shown = "".join(output.get("text") or data["text/plain"]).rstrip("\n")
                parts.append(f"```text\n{shown}\n```")
    return "\n\n".join(parts)
