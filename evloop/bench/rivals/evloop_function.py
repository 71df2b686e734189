"""An echo server of frames: evloop, a function called once per frame."""
# mypy: ignore-errors

import evloop


def echo(conn, frame):
    conn.send(frame)


def main():
    evloop.serve(echo, "127.0.0.1:0", ready=lambda server: print(f"LISTENING tcp {server.address}", flush=True))


if __name__ == "__main__":
    main()
