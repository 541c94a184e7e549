"""What disks refuse. Standard library only."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError that ends when room is made
