"""A shop's clicks, purchases and products: one stream for each operator there is, and a feature set over what they make.

headrace plan schemas/pipelines/clicks
headrace plan schemas/pipelines/clicks --keys visitor=2000000 --lineage
"""

from __future__ import annotations

from headrace.declare import (
    Annotated,
    AsOfJoin,
    AtMost,
    Count,
    Decimal,
    Doc,
    Event,
    Hopping,
    IntervalJoin,
    Items,
    Long,
    Nullable,
    Pipeline,
    Range,
    Scale,
    Session,
    Sliding,
    TableJoin,
    Text,
    Timestamp,
    Tumbling,
    Unit,
    described,
    feature_set,
    stream,
)

Euros = Annotated[Decimal, Scale(2), Range(0, 50_000), Unit("EUR")]
PARTITIONS = 4


class Clicked(
    Event, topic="clicks", key="visitor", time="clicked_at", lateness="1m", dedup=("click_id", "1h"), partitions=PARTITIONS
):
    click_id: Text
    visitor: Annotated[Text, Doc("a token of the browser")]
    page: Text
    product: Annotated[Nullable[Text], Doc("null on pages that show none, or many")]
    campaign: Nullable[Text]
    dwell: Annotated[Long, Range(0, 3_600_000), Unit("ms")]
    clicked_at: Timestamp


class Purchased(Event, topic="purchases", key="purchase_id", time="purchased_at", lateness="5m", dedup=("purchase_id", "1d")):
    purchase_id: Text
    visitor: Text
    products: Annotated[Items[Text], AtMost(64)]
    amount: Euros
    purchased_at: Timestamp


class Product(Event, topic="products", key="sku", time="changed_at", lateness="1m"):
    """A changelog: the newest record of a product is what holds, one without a value takes it out of the shop."""

    sku: Text
    category: Text
    price: Euros
    changed_at: Timestamp


# Tumbling, of all rows: the whole shop every ten seconds. At night nobody clicks, so the clock closes what is open.
@stream(Clicked, by=(), window=Tumbling("10s"), emit="both", tick="5s", partitions=1)
class ShopTenSeconds:
    clicks = Clicked.count()
    visitors = Clicked.visitor.distinct_estimate()
    dwell_mean = Clicked.dwell.mean()


# Hopping: what the last ten minutes of a page look like, told again with each transaction that changed them.
@stream(Clicked, by="page", topic="page-minutes", window=Hopping("10m", hop="1m"), emit="update")
class PageMinutes:
    clicks = Clicked.count()
    products = Clicked.product.distinct()


# Sliding: a burst is seen at the very click that makes it one.
@stream(Clicked, by="visitor", topic="bursts", window=Sliding("10s"), partitions=PARTITIONS, store="memory")
class Burst:
    clicks = Clicked.count()
    pages = Clicked.page.distinct()


# Session: a visit ends when nothing came for half an hour.
@stream(Clicked, by="visitor", topic="visits", window=Session(gap="30m"), partitions=PARTITIONS)
class Visit:
    clicks = Clicked.count()
    products = Clicked.product.count()
    dwell = described(Clicked.dwell.sum(), Range(0, 1_000_000_000), Doc("of the whole visit"))
    longest = Clicked.dwell.max()


# Count: the spread of every hundred clicks of a page, however long they took.
@stream(Clicked, by="page", topic="page-hundreds", window=Count(100))
class PageHundred:
    dwell_median = Clicked.dwell.quantile("0.5", buckets=[100, 1_000, 10_000, 100_000])
    dwell_stddev = Clicked.dwell.stddev()


# Distinct: whoever looks at a product again within six hours is not a new view.
@stream(Clicked, by=("visitor", "product"), topic="views", distinct="6h")
class View:
    page = Clicked.page
    campaign = Clicked.campaign.if_null("none")


# Flat-map: one row for each product of a purchase, keyed by the purchase as before.
@stream(Purchased, topic="purchase-lines", each=Purchased.products)
class PurchaseLine:
    visitor = Purchased.visitor
    product = Purchased.products.each()


# Interval join of two derived streams: was the product bought within a day of being seen, and if not, say so.
@stream(IntervalJoin(View, PurchaseLine, by=("visitor", "product"), after="1d", how="left"), topic="view-outcomes")
class ViewOutcome:
    page = View.page
    seen_at = View.clicked_at
    purchase_id = PurchaseLine.purchase_id


# Table join: what the shop said of the product when it was bought; left, so that a product taken out is sold all the same.
@stream(TableJoin(PurchaseLine, Product, by="product", how="left"), topic="priced-lines", tick="5s")
class PricedLine:
    visitor = PurchaseLine.visitor
    category = Product.category
    price = Product.price


# As-of join: the last click before a purchase, if it is not older than an hour.
@stream(AsOfJoin(Purchased, Clicked, by="visitor", max_age="1h", how="left"), topic="last-touches")
class LastTouch:
    purchase_id = Purchased.purchase_id
    amount = Purchased.amount
    campaign = Clicked.campaign
    seconds = Clicked.dwell // 1_000


# Filter and map, of a stream: dear lines alone, by category.
@stream(PricedLine, by="category", where=PricedLine.price > 500, topic="dear-lines")
class DearLine:
    visitor = PricedLine.visitor
    cents = PricedLine.price * 100


@feature_set(entity="visitor", ttl="8d", stale_after="1d", owner="shop")
class VisitorWeek:
    """Events that streams make are read as any event is."""

    visits_7d = Visit.count().over("7d", hop="1h")
    clicks_mean_7d = Visit.clicks.mean().over("7d", hop="1h")
    dwell_7d = Visit.dwell.sum().over("7d", hop="1h")
    burst_1h = Burst.clicks.max().over("1h", hop="5m")
    spent_7d = PricedLine.price.sum().over("7d", hop="1h")


clicks = Pipeline(
    "clicks",
    owner="shop",
    events=[Clicked, Purchased, Product],
    streams=[
        ShopTenSeconds, PageMinutes, Burst, Visit, PageHundred, View, PurchaseLine, ViewOutcome, PricedLine, LastTouch,
        DearLine,
    ],
    feature_sets=[VisitorWeek],
)  # fmt: skip
