"""Many threads that want the same thing at the same moment."""

import threading

THREADS = 8
ROUNDS = 5


def one_at_a_time(take, refusal):
    """Have eight threads enter `take()` together, five times: how often it was got, and how often refused."""
    together, won, lost = threading.Barrier(THREADS), [], []

    def attempt():
        together.wait()
        try:
            with take():
                won.append(1)
                together.wait()  # held until all have tried
        except refusal:
            lost.append(1)
            together.wait()

    for _ in range(ROUNDS):
        threads = [threading.Thread(target=attempt) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return len(won), len(lost)
