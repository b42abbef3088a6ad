"""Everything that touches the workspace's files: manifests, Parquet, joins, reading the store, export."""
