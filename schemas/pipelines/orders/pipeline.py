"""Orders of a shop: a record inside an event, arrays counted item by item, entities of several fields.

headrace plan schemas/pipelines/orders
headrace plan schemas/pipelines/orders --lineage     # down to orders.address.city
"""

from headrace.declare import (
    Annotated,
    AtMost,
    Decimal,
    Doc,
    Event,
    Items,
    Minutes,
    Nullable,
    Pipeline,
    Range,
    Record,
    Scale,
    Source,
    Text,
    Timestamp,
    Unit,
    feature_set,
)

Euros = Annotated[Decimal, Scale(2), Range(0, 50_000), Unit("EUR")]
KINDS = ("book", "toy", "shoe", "food")


class Place(Record):
    """A point on the map."""

    latitude: Annotated[Decimal, Scale(5), Range(-90, 90), Unit("degrees north")]
    longitude: Annotated[Decimal, Scale(5), Range(-180, 180), Unit("degrees east")]


class Address(Record):
    """Where a parcel goes."""

    city: Text
    zip: Annotated[Nullable[Text], Doc("null where there are none")]
    place: Nullable[Place]


class Buyer(Record):
    """Who pays."""

    id: Text
    tags: Annotated[Items[Text], AtMost(16), Doc("what the shop calls them: vip, new, company")]


class Ordered(Event, topic="orders", key="order_id", time="ordered_at", lateness="2h", dedup=("order_id", "6h")):
    order_id: Text
    ordered_at: Timestamp
    buyer: Buyer
    address: Annotated[Nullable[Address], Doc("null where the buyer fetches it")]
    kinds: Annotated[Items[Text], AtMost(64), Doc("what each item is")]
    prices: Annotated[Items[Euros], AtMost(64), Doc("of each item, in the same order")]
    coupons: Nullable[Items[Text]]


class Delivered(Event, topic="deliveries", key="order_id", time="delivered_at", lateness="2h", dedup=("order_id", "6h")):
    order_id: Text
    delivered_at: Timestamp
    buyer: Buyer
    delay: Minutes


@feature_set(entity=("buyer.id", "address.city"), ttl="9h", stale_after="1h", request_lag="30m")
class BuyerCity:
    """One buyer in one city: whoever orders to two cities is two entities, who fetches is none."""

    orders_1h = Ordered.count().over("1h", hop="5m")
    items_1h = Ordered.kinds.each().count().over("1h", hop="5m")
    kinds_6h = Ordered.kinds.each().distinct().over("6h", hop="1h")
    books_6h = Ordered.kinds.each().word_count("book", KINDS).over("6h", hop="1h")
    with_book_6h = Ordered.count(where=Ordered.kinds.contains("book")).over("6h", hop="1h")
    spent_6h = Ordered.prices.total().sum().over("6h", hop="1h")
    dear_6h = Ordered.prices.each().sum(where="each(prices) > 100 and buyer.id <> 'staff'").over("6h", hop="1h")
    dearest_6h = Ordered.prices.each().max().over("6h", hop="1h")
    price_median_6h = Ordered.prices.each().quantile("0.5", buckets=[5, 10, 20, 50, 100, 500]).over("6h", hop="1h")
    first_price_6h = Ordered.prices.each().first().over("6h", hop="1h")
    price = Ordered.prices.each().last_values(3, max_age="2h")
    north_6h = Ordered.address.place.latitude.max().over("6h", hop="1h")


@feature_set(entity="address.city", ttl="9h", stale_after="1h", request_lag="30m")
class City:
    orders_6h = Ordered.count().over("6h", hop="1h")
    no_zip_6h = Ordered.count(where=Ordered.address.zip.is_null() & Ordered.buyer.tags.contains("vip")).over("6h", hop="1h")
    coupons_6h = Ordered.coupons.each().distinct_estimate().over("6h", hop="1h")
    biggest_6h = Ordered.kinds.length().max().over("6h", hop="1h")


@feature_set(entity=("buyer.id",), ttl="9h", stale_after="1h", request_lag="30m")
class BuyerService:
    """Over two sources: the same path names the buyer in both."""

    orders_6h = Ordered.count().over("6h", hop="1h")
    delay_mean_6h = Delivered.delay.mean().over("6h", hop="1h")
    tags_6h = Delivered.buyer.tags.each().distinct().over("6h", hop="1h")


pipeline = Pipeline(
    "orders",
    owner="shop",
    events=[Ordered, Delivered],
    sources=[
        Source("orders", Ordered, "http_json_lines"),
        Source("order-files", Ordered, "csv_folder", columns={"address.city": "City"}),
        Source("deliveries", Delivered, "http_json_lines"),
    ],
    feature_sets=[BuyerCity, City, BuyerService],
)
