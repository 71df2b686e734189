"""Chat: the protocol ``evloop-chat/1``, its server, and its clients.

Rule: nothing in this file may import at run time what only one of them needs.
"""
