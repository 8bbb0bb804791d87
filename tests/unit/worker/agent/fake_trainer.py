#!/usr/bin/python3
"""Speaks worker/train/PROTOCOL.md and does what the "script" of its spec says, one operation after the other:

["points", [[series, step, value], ...]]   ["progress", epoch]         ["log", text]
["checkpoint", epoch]                      ["succeed", model text]     ["fail", class, message]
["await_stop"]  answers the next cancel or preempt     ["gate", fifo]  waits until the fifo was opened and closed
["exit", code]  ["kill"]  dies by SIGKILL   ["hang"]  answers nothing any more
"""
import json
import os
import signal
import sys

epoch = 0


def say(events, event, **fields):
    events.write(json.dumps({"event": event, **fields}) + "\n")
    events.flush()


def write_resume(work_dir, number):
    path = os.path.join(work_dir, f"resume-{number}.safetensors")
    with open(path, "w") as file:
        file.write(f"epoch {number}")
    return path


def train(events, command):
    global epoch
    key, work_dir = command["key"], command["work_dir"]
    epoch = 0
    if command["resume"]:
        epoch = int(open(command["resume"]).read().split()[1])
    say(events, "started", key=key, resumed_epoch=epoch, epochs=10, steps=100)
    for operation, *arguments in command["spec"]["script"]:
        if operation == "points":
            say(events, "points", key=key, points=arguments[0])
        elif operation == "progress":
            say(events, "progress", key=key, epoch=arguments[0], epochs=10, step=arguments[0] * 10, steps=100,
                images_per_second=1000.0, accuracy=50.0, eta_seconds=None)
        elif operation == "log":
            print(arguments[0], file=sys.stderr, flush=True)
        elif operation == "checkpoint":
            epoch = arguments[0]
            say(events, "checkpoint", key=key, epoch=epoch, path=write_resume(work_dir, epoch))
        elif operation == "succeed":
            path = os.path.join(work_dir, "model.safetensors")
            with open(path, "w") as file:
                file.write(arguments[0])
            say(events, "succeeded", key=key, path=path,
                result={"test_accuracy": 62.5, "validation_accuracy": None, "test_loss": 1.25, "best_epoch": 3,
                        "duration_seconds": 2.5, "images_per_second": 1000.0},
                report={"evaluation": {"top5": 95.5}, "layers": []})
        elif operation == "fail":
            say(events, "failed", key=key, **{"class": arguments[0], "message": arguments[1]})
        elif operation == "await_stop":
            request = json.loads(sys.stdin.readline())
            if request["command"] == "cancel":
                say(events, "cancelled", key=key)
            else:
                say(events, "preempted", key=key, epoch=epoch, path=write_resume(work_dir, epoch))
        elif operation == "gate":
            open(arguments[0]).read()
        elif operation == "exit":
            sys.exit(arguments[0])
        elif operation == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif operation == "hang":
            while True:
                signal.pause()


def main():
    arguments = sys.argv[1:]
    if "--inventory" in arguments:
        print(json.dumps({"numerics": 1, "torch": "0", "devices": [
            {"device": "cpu", "name": "Fake CPU", "memory_bytes": 1000}]}))
        return
    if "--with-a-thread" in arguments:
        import threading  # Its start-up is waited for everywhere else.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    events = os.fdopen(int(arguments[arguments.index("--events-fd") + 1]), "w")
    say(events, "ready", numerics=1, torch="0", device="cpu", threads=1)
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        command = json.loads(line)
        if command["command"] == "train":
            train(events, command)


main()
