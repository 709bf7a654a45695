"""A page and an API that show operators what goes on in all processes.

schema.py    the API: its queries, mutations and subscriptions
types.py     its types
overview.py  the figures of all processes
figures.py   adds up the figures of several processes, and compares them with earlier ones
history.py   reads the history of one topic
asking.py    asks all processes, and says which did not answer
page.py      the page and its files
mount.py     adds both to a router, for those who have the right
"""
