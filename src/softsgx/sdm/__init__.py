"""The architecture by the names of Intel's Software Developer's Manual (SDM); no Linux names.

"SDM" in this room means Volume 3, part 4 of the manual: the chapters about SGX. Tables are cited
by their titles, since their numbers move from one edition to the next.
"""
