"""Named moments at which a program is killed: before or after a system call on a file of its own.

fail_points.cc, preloaded, kills the process from inside the call, so that nothing comes after it. A point is armed by writing it
into a file that is mapped by all processes of the program.
"""
import mmap
import pathlib
import struct

CONTROL = struct.Struct("<IIIII64s64s")  # As Control in fail_points.cc.
WRITE, SYNC, RENAME, UNLINK, SEND = 1, 2, 3, 4, 5
BEFORE, AFTER = 0, 1
LOG = "bitrung.db-wal"

# program -> name -> (call, before or after, part of the file's path, file that has to be synced before); '$' is the path's end.
POINTS = {
    "bitrung-server": {
        "in_commit": (WRITE, BEFORE, LOG, ""),  # Some pages of the transaction are in the log.
        "before_commit": (SYNC, BEFORE, LOG, ""),
        "after_commit": (SYNC, AFTER, LOG, ""),
        "before_reply": (SEND, BEFORE, "socket:", LOG),
        "after_reply": (SEND, AFTER, "socket:", LOG),
        "in_checkpoint_of_the_log": (WRITE, BEFORE, "/bitrung.db$", ""),
        "in_upload": (WRITE, AFTER, "/artifacts/partial/", ""),
        "before_artifact_sync": (SYNC, BEFORE, "/artifacts/partial/", ""),
        "before_artifact_rename": (RENAME, BEFORE, "/artifacts/", ""),
        "after_artifact_rename": (RENAME, AFTER, "/artifacts/", ""),
    },
    "bitrung-worker": {
        # An offer, an outcome or both, or the end of an attempt.
        "before_journal_write": (WRITE, BEFORE, "/spool.journal", ""),
        "before_journal_sync": (SYNC, BEFORE, "/spool.journal", ""),
        "after_journal_sync": (SYNC, AFTER, "/spool.journal", ""),
        "before_points_spooled": (WRITE, BEFORE, "/points.log", ""),
        "after_points_spooled": (WRITE, AFTER, "/points.log", ""),
        "before_spool_sync": (SYNC, BEFORE, "/points.log", ""),
        "in_cache_write": (WRITE, AFTER, "/cache/partial/", ""),
        "before_cache_rename": (RENAME, BEFORE, "/cache/", ""),
        "after_cache_rename": (RENAME, AFTER, "/cache/", ""),
        "before_said_after_sync": (SEND, BEFORE, "socket:", "/spool.journal"),
        "after_said_after_sync": (SEND, AFTER, "socket:", "/spool.journal"),
        "before_attempt_removed": (UNLINK, BEFORE, "/offer.json", ""),
        "in_attempt_removed": (UNLINK, AFTER, "/offer.json", ""),
    },
    "bitrung-trainer": {
        "before_event": (WRITE, BEFORE, "pipe:", ""),
        "after_event": (WRITE, AFTER, "pipe:", ""),
        "in_resume_state": (WRITE, AFTER, "/resume-", ""),
        "before_resume_sync": (SYNC, BEFORE, "/resume-", ""),
        "before_resume_rename": (RENAME, BEFORE, "/resume-", ""),
        "after_resume_rename": (RENAME, AFTER, "/resume-", ""),
        "before_model_rename": (RENAME, BEFORE, "/model.safetensors", ""),
        "after_model_rename": (RENAME, AFTER, "/model.safetensors", ""),
    },
}


class Control:
    """The points of one program in one directory."""

    def __init__(self, directory, program):
        path = pathlib.Path(directory) / program
        path.write_bytes(bytes(CONTROL.size))
        with open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), CONTROL.size)
        self._points = POINTS[program]

    def arm(self, name, countdown=1):
        call, after, path, first = self._points[name]
        self._page[:] = CONTROL.pack(0, call, after, countdown, 0 if first else 1, first.encode(), path.encode())
        self._page[0:4] = struct.pack("<I", 1)

    def armed(self):
        """Whether it waits still: nobody has been killed."""
        return self._page[0] == 1

    def disarm(self):
        self._page[0:4] = struct.pack("<I", 0)
