"""Folders of scans in the layouts of others, read as a proposal of what they declare and which cases they hold."""
