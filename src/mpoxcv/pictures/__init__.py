"""From folders to pixels: the tree on disk, decoding, resizing, the cache."""
