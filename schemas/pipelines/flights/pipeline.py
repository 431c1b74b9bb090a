"""Will this flight arrive more than 15 minutes late? Asked two hours before its scheduled departure.

Three New York airports, 2013: schedules, departures, arrivals and hourly weather. The request is the Scheduled event
itself, at t = scheduled departure - 2 h: over half the flights leave early, so a later t would leak.
"""

from __future__ import annotations

from headrace.declare import (
    Annotated,
    Canary,
    Decimal,
    Doc,
    Event,
    Flag,
    Gate,
    GradientBoosting,
    Int,
    Label,
    Minutes,
    Model,
    Nullable,
    Pipeline,
    Range,
    Rules,
    Scale,
    Serve,
    Source,
    Text,
    Timestamp,
    Unit,
    Watch,
    feature_set,
    on_demand,
    request,
)

HISTORY_DELAY = "5m"  # an event of the loaded year counts as known five minutes after it happened


class Scheduled(
    Event,
    topic="scheduled",
    key="flight_id",
    time="requested_at",
    lateness="2h",
    dedup=("flight_id", "6h"),
    available_after=HISTORY_DELAY,
):
    flight_id: Annotated[Text, Doc("local date, carrier, flight number and origin: 2013-06-01.UA.1545.EWR")]
    requested_at: Annotated[Timestamp, Doc("scheduled departure minus two hours: when the prediction is asked")]
    carrier: Text
    flight: Annotated[Int, Range(1, 9999)]
    tail: Annotated[Nullable[Text], Doc("tail number; null when no aircraft was assigned")]
    origin: Text
    dest: Text
    distance: Annotated[Int, Unit("mi"), Range(0, 10_000)]
    sched_dep: Timestamp
    sched_arr: Timestamp
    hour: Annotated[Int, Unit("h"), Range(0, 23), Doc("hour of the scheduled departure, local at the origin")]
    ask: Annotated[Flag, Doc("whether a decision is asked for this flight: a declared hash sample of flights is")]


class Departed(
    Event,
    topic="departures",
    key="flight_id",
    time="departed_at",
    lateness="2h",
    dedup=("flight_id", "6h"),
    available_after=HISTORY_DELAY,
):
    flight_id: Text
    departed_at: Annotated[Timestamp, Doc("actual departure; the scheduled one of a cancelled flight")]
    carrier: Text
    tail: Nullable[Text]
    origin: Text
    dest: Text
    outcome: Annotated[Text, Doc("departed or cancelled")]
    dep_delay: Annotated[Nullable[Minutes], Doc("departure after schedule; null when cancelled")]


class Arrived(
    Event,
    topic="arrivals",
    key="flight_id",
    time="arrived_at",
    lateness="2h",
    dedup=("flight_id", "6h"),
    available_after=HISTORY_DELAY,
):
    flight_id: Text
    arrived_at: Annotated[Timestamp, Doc("actual arrival; the scheduled one when cancelled or diverted")]
    carrier: Text
    tail: Nullable[Text]
    origin: Text
    dest: Text
    outcome: Annotated[Text, Doc("arrived, cancelled or diverted")]
    arr_delay: Annotated[Nullable[Minutes], Doc("arrival after schedule; null unless arrived")]


class Weather(
    Event,
    topic="weather",
    key="observation_id",
    time="observed_at",
    lateness="2h",
    dedup=("observation_id", "6h"),
    available_after=HISTORY_DELAY,
):
    observation_id: Annotated[Text, Doc("origin and hour: EWR.2013-06-01T09Z")]
    origin: Text
    observed_at: Timestamp
    temp: Annotated[Nullable[Decimal], Scale(2), Unit("degF"), Range(-80, 140)]
    dewp: Annotated[Nullable[Decimal], Scale(2), Unit("degF"), Range(-100, 110), Doc("dew point")]
    humid: Annotated[Nullable[Decimal], Scale(2), Unit("%"), Range(0, 110), Doc("relative humidity")]
    wind_speed: Annotated[Nullable[Decimal], Scale(2), Unit("mph"), Range(0, 2000)]
    wind_gust: Annotated[Nullable[Decimal], Scale(2), Unit("mph"), Range(0, 2000)]
    precip: Annotated[Nullable[Decimal], Scale(2), Unit("in"), Range(0, 20), Doc("in the hour")]
    pressure: Annotated[Nullable[Decimal], Scale(1), Unit("mbar"), Range(850, 1100), Doc("at sea level")]
    visib: Annotated[Nullable[Decimal], Scale(2), Unit("mi"), Range(0, 100), Doc("visibility")]
    wind_dir: Annotated[Nullable[Int], Unit("deg"), Range(0, 360)]


@feature_set(entity="origin", ttl="2d", stale_after="6h", request_lag="6h")
class OriginLoad:
    origin_departures_3h = Departed.count().over("3h", hop="15m")
    origin_delay_mean_1h = Departed.dep_delay.mean().over("1h", hop="5m")
    origin_delay_mean_3h = Departed.dep_delay.mean().over("3h", hop="15m")
    origin_late_share_3h = Departed.count(where="dep_delay > 15").over("3h", hop="15m") / Departed.count().over("3h", hop="15m")
    origin_cancelled_share_3h = Departed.count(where="outcome = 'cancelled'").over("3h", hop="15m") / Departed.count().over(
        "3h", hop="15m"
    )


@feature_set(entity="origin", ttl="1d", stale_after="3h", request_lag="6h")
class OriginWeather:
    visib = Weather.visib.last(max_age="2h")
    wind_speed = Weather.wind_speed.last(max_age="2h")
    pressure = Weather.pressure.last(max_age="2h")
    dewp = Weather.dewp.last(max_age="2h")
    precip_6h = Weather.precip.sum().over("6h", hop="1h")


@feature_set(entity="carrier", ttl="3d", stale_after="6h", request_lag="6h")
class CarrierDay:
    carrier_delay_mean_3h = Departed.dep_delay.mean().over("3h", hop="15m")
    carrier_arr_delay_mean_3h = Arrived.arr_delay.mean().over("3h", hop="15m")
    carrier_arr_delay_mean_1d = Arrived.arr_delay.mean().over("1d", hop="1h")


@feature_set(entity="tail", ttl="2d", stale_after="6h", request_lag="6h")
class TailState:
    tail_last_dep_delay = Departed.dep_delay.last(max_age="12h")
    tail_last_arr_delay = Arrived.arr_delay.last(max_age="12h")


@feature_set(entity=("origin", "dest"), ttl="9d", stale_after="6h", request_lag="6h")
class RouteWeek:
    route_arr_delay_mean_1d = Arrived.arr_delay.mean().over("1d", hop="1h")
    route_arr_delay_mean_7d = Arrived.arr_delay.mean().over("7d", hop="1h")


late_arrival = Model(
    request=Scheduled,
    when="ask",
    label=Label(Arrived, "arr_delay > 15", join="flight_id", mature="1d", exclude="outcome <> 'arrived'"),
    inputs=[
        OriginLoad,
        OriginWeather,
        CarrierDay,
        TailState,
        RouteWeek,
        request("distance", "hour"),
        on_demand("origin_delay_mean_1h * origin_late_share_3h", name="origin_pressure"),
    ],
    trainer=GradientBoosting(rounds=150, max_depth=5, learning_rate="0.05", min_child_weight=100),
    gate=Gate(auc=">= champion - 0.002", parity="exact"),
    serve=Serve(
        deadline="50ms",
        threshold="0.4",
        fallback=Rules("origin_delay_mean_1h > 30", score="origin_delay_mean_1h"),
        explain="top5",
        # About 230 decisions a day: a fifth of them reaches its dwell in two to three days, and labels take one more.
        # So few tell a broken challenger from a sound one, not a slightly worse one: that is the gate's matter.
        rollout=Canary([20, 50, 100], dwell="100 decisions"),
    ),
    # Departures of the last three hours only: such windows are empty by dawn, so that days are separate pieces of
    # evidence (late arrivals are still read next morning), and an hour's lag of the features hardly moves them.
    watch=Watch(
        drift=["origin_delay_mean_3h", "origin_late_share_3h", "carrier_delay_mean_3h"],
        window="14d",
        psi="0.2",
        false_findings="0.05",
    ),
    owner="ops",
    team="network-operations",
    tier="medium",
)

flights = Pipeline(
    "flights",
    owner="ops",
    events=[Scheduled, Departed, Arrived, Weather],
    sources=[
        Source("flights-scheduled", Scheduled, "http_json_lines"),
        Source("flights-departures", Departed, "http_json_lines"),
        Source("flights-arrivals", Arrived, "http_json_lines"),
        Source("flights-weather", Weather, "csv_folder"),
    ],
    feature_sets=[OriginLoad, OriginWeather, CarrierDay, TailState, RouteWeek],
    models=[late_arrival],
)
