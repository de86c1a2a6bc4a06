"""Measuring proxies beside each other.

machine    cores, what processes use of them, and whether somebody else uses them too
servers    a process that is started, waited for and stopped; the origin
proxies    what is measured: ours and its peers, configured alike
loads      what is sent through them
rows       the cases, and what must be reached in each
report     the table
rotation, crowd, reloads    what must be endured
"""
