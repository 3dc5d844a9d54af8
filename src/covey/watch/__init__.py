"""The live page: runs in a browser while they grow, and after they ended.

It reads folders of runs with `Run` alone and writes nothing.
"""
