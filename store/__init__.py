"""Features at rest: files, catalogue, tables, neighbourhoods and search."""
