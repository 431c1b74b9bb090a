"""Run any declaration without a broker: feed events, read features, ask decisions, compare with the oracle.

    from headrace.testing import Driver

    def test_an_hour_of_departures() -> None:
        driver = Driver("pipeline.py")
        driver.feed("departures", flight_id="UA-1", origin="EWR", departed_at="2013-06-01T09:00Z", dep_delay=20)
        driver.feed("departures", flight_id="UA-2", origin="EWR", departed_at="2013-06-01T09:10Z", dep_delay=40)
        assert driver.features("origin_load", "EWR", at="2013-06-01T09:15Z")["origin_delay_mean_1h"] == 30
        driver.check()

Nothing here reads a clock or throws dice: the same calls give the same answers.
"""

from headrace.testing.driver import Driver
from headrace.testing.outcomes import Checked, Decision, Features, Fed, Mismatch

__all__ = ["Checked", "Decision", "Driver", "Features", "Fed", "Mismatch"]
