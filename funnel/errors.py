"""
What can go wrong, sorted by whose fault it is.

    FunnelError
    ├── CallerError              the request cannot be answered as asked
    │   ├── BadQuery             a value in it is out of range or malformed      INVALID_ARGUMENT
    │   └── NotFound             it names something that does not exist          NOT_FOUND
    ├── SetupError               the operator must change something
    │   ├── BadConfig            a setting is misspelt, of the wrong type, or contradicts another
    │   ├── BadData              a data set breaks its contract
    │   ├── BadGeneration        a generation is missing, corrupt or of another format
    │   └── Occupied             a port or a file is already in use
    └── ServiceError             a part of the system did not answer
        ├── Unavailable          it cannot be reached or is still loading        UNAVAILABLE
        └── Late                 it did not answer in time                       DEADLINE_EXCEEDED

Every message names the value, the place and the remedy. `status` is the gRPC status code's name.
"""

from __future__ import annotations


class FunnelError(Exception):
    status = "INTERNAL"


class CallerError(FunnelError):
    status = "INVALID_ARGUMENT"


class BadQuery(CallerError):
    pass


class NotFound(CallerError):
    status = "NOT_FOUND"


class SetupError(FunnelError):
    status = "FAILED_PRECONDITION"


class BadConfig(SetupError):
    pass


class BadData(SetupError):
    pass


class BadGeneration(SetupError):
    pass


class Occupied(SetupError):
    pass


class ServiceError(FunnelError):
    status = "UNAVAILABLE"


class Unavailable(ServiceError):
    pass


class Late(ServiceError):
    status = "DEADLINE_EXCEEDED"
