"""What self-contained HTML pages share: their frame, tables and embedded pictures."""
