"""python -m headstart"""

from .cli.app import main

main()
