"""From files to rows: sources, columns, splits, duplicates."""
