"""The commands of `tidings`, one file each; what a command needs is loaded when it runs."""
