"""python -P -m headstart: without -P, Python imports what lies in the folder that it is started in."""

from .cli.app import main

main()
