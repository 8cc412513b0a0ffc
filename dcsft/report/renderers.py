"""Tables as Markdown and LaTeX; HTML is page.jinja's business, the terminal tables.py's."""

from collections.abc import Sequence

from dcsft.report.cells import Cell, missing
from dcsft.report.tables import Entry, Table

_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
    "→": r"$\to$",
    "<": "$<$",
    ">": "$>$",
}


def markdown(tables: Sequence[Table], cells: Sequence[Cell]) -> str:
    """All tables as GitHub Markdown, then the cells that are missing and their commands."""
    blocks = [_markdown_table(table) for table in tables]
    if missing(cells):
        lines = [f"- {cell.arm}, seed {cell.seed}: `{cell.command}`" for cell in missing(cells)]
        blocks.append("\n".join(["### Not computed yet", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def _markdown_table(table: Table) -> str:
    rule = [":---" if i < table.num_labels else "---:" for i in range(len(table.header))]
    rows = [[_markdown_entry(entry) for entry in row] for row in (table.header, *table.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
    return "\n".join([f"### {table.caption}", "", *lines, "", *(note + "  " for note in table.notes)]).rstrip()


def _markdown_entry(entry: Entry) -> str:
    text, detail = (_plain(part) for part in (entry.text, entry.detail))
    text = {1: f"**{text}**", 2: f"<u>{text}</u>", None: text}[entry.rank]
    return f"{text} <sub>{detail}</sub>" if detail else text


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in "\\|*_`[]" else sign for sign in text)


def latex(tables: Sequence[Table], cells: Sequence[Cell]) -> str:
    """All tables as LaTeX with booktabs; missing cells as comments at the end."""
    lines = [f"% missing: {cell.arm}, seed {cell.seed}: {cell.command}" for cell in missing(cells)]
    return "\n\n".join(["% needs \\usepackage{booktabs}", *map(_latex_table, tables), *lines]) + "\n"


def _latex_table(table: Table) -> str:
    columns = "l" * table.num_labels + "r" * (len(table.header) - table.num_labels)
    rows = [" & ".join(map(_latex_entry, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\caption{{{_tex(table.caption)}. {_tex(' '.join(table.notes))}}}".replace(". }", ".}"),
            rf"\label{{tab:{table.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_latex_entry, table.header)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex_entry(entry: Entry) -> str:
    text = _tex(entry.text)
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}", None: text}[entry.rank]
    # The braces keep a row that opens with a bracket from being read as the argument of \\.
    return f"{text} {{\\scriptsize {_tex(entry.detail)}}}" if entry.detail else text


def _tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
