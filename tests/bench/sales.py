# %% 1: what the work needs, and what is alive all the time
import os

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import confusion_matrix, mean_absolute_error, r2_score, roc_curve
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROWS = int(os.environ["SALES_ROWS"])
OTHER_BYTES = int(os.environ["SALES_OTHER_BYTES"])
rng = np.random.default_rng(7)
sensors = rng.standard_normal((OTHER_BYTES * 40 // 100 // 160 + 1, 20))
images = rng.integers(0, 256, (OTHER_BYTES * 20 // 100 // 1024, 32, 32), dtype=np.uint8)
prices = pd.DataFrame(
    rng.random((OTHER_BYTES * 30 // 100 // 80, 10)).round(3), columns=list("abcdefghij")
)
people = pd.DataFrame({"number": np.arange(OTHER_BYTES * 10 // 100 // 144)})
people["name"] = [f"customer {number:07d}" for number in people["number"]]
people["mail"] = [f"c{number:07d}@example.org" for number in people["number"]]

# %% 2: the raw table, some of it missing or twice
STORES, PRODUCTS = 120, 2500
raw = pd.DataFrame(
    {
        "sold": pd.Timestamp("2025-01-01")
        + pd.to_timedelta(rng.integers(0, 365 * 24 * 60, ROWS), unit="min"),
        "store": rng.integers(0, STORES, ROWS),
        "product": rng.integers(0, PRODUCTS, ROWS),
        "quantity": rng.poisson(3, ROWS) + 1.0,
        "price": rng.gamma(3.0, 12.0, ROWS).round(2),
        "channel": rng.choice(["shop", "web", "phone", "partner"], ROWS),
        "voucher": rng.random(ROWS) < 0.1,
    }
)
raw.loc[rng.random(ROWS) < 0.03, "price"] = np.nan
raw.loc[rng.random(ROWS) < 0.02, "quantity"] = np.nan
raw = pd.concat([raw, raw.sample(frac=0.02, random_state=1)], ignore_index=True)

# %% 3: a look at it
print(raw.describe(include="all").T)
print(raw.isna().mean().to_dict(), raw.duplicated().sum())

# %% 4: clean
sales = raw.drop_duplicates().sort_values("sold", ignore_index=True)
sales["price"] = sales["price"].fillna(sales.groupby("product")["price"].transform("median"))
sales["price"] = sales["price"].fillna(sales["price"].median())
sales["quantity"] = sales["quantity"].fillna(1.0)
sales["channel"] = sales["channel"].astype("category")
del raw

# %% 5: features
sales["amount"] = sales["price"] * sales["quantity"]
sales["month"] = sales["sold"].dt.month
sales["weekday"] = sales["sold"].dt.day_of_week
sales["hour"] = sales["sold"].dt.hour

# %% 6: one column in place
sales.loc[sales["voucher"], "amount"] *= 0.9

# %% 7: the tables beside it
stores = pd.DataFrame(
    {
        "store": np.arange(STORES),
        "city": [f"city {number % 40}" for number in range(STORES)],
        "area": rng.normal(800, 200, STORES).round(1),
        "staff": rng.integers(3, 40, STORES),
    }
)
products = pd.DataFrame(
    {
        "product": np.arange(PRODUCTS),
        "group": rng.choice([f"group {number}" for number in range(25)], PRODUCTS),
        "cost": rng.gamma(3.0, 6.0, PRODUCTS).round(2),
        "weight": rng.gamma(2.0, 0.8, PRODUCTS).round(3),
    }
)

# %% 8: a big join
joined = sales.merge(stores, on="store").merge(products, on="product")
joined["margin"] = joined["amount"] - joined["cost"] * joined["quantity"]

# %% 9: a pivot
monthly = joined.pivot_table(
    index=["city", "group"], columns="month", values="amount", aggfunc="sum", fill_value=0.0
)
shares = monthly.div(monthly.sum(axis=1), axis=0)

# %% 10: rolling means of each store
daily = joined.groupby(["store", joined["sold"].dt.floor("D")])["amount"].sum().unstack("store")
smooth = daily.fillna(0.0).rolling(14, min_periods=1).mean()
trend = {store: np.polyfit(np.arange(len(smooth)), smooth[store], 2) for store in smooth}

# %% 11: one element of a big array in place
sensors[len(sensors) // 3, 7] = 0.0

# %% 12: what the models are given
numeric = ["quantity", "price", "weekday", "hour", "area", "staff", "cost", "weight"]
X_train, X_test, kept, held = train_test_split(
    joined[[*numeric, "channel"]], joined.index, test_size=0.25, random_state=3
)
margin_train, margin_test = joined.loc[kept, "margin"], joined.loc[held, "margin"]
high = joined["margin"].median()
columns = ColumnTransformer([("n", StandardScaler(), numeric), ("c", OneHotEncoder(), ["channel"])])

# %% 13: linear models
ridge = make_pipeline(columns, Ridge()).fit(X_train, margin_train)
logistic = make_pipeline(columns, LogisticRegression(max_iter=500))
logistic.fit(X_train, margin_train > high)
print(ridge.score(X_test, margin_test), logistic.score(X_test, margin_test > high))

# %% 14: a forest
few = X_train.index[: ROWS // 3]
forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=5)
forest.fit(X_train.loc[few, numeric], margin_train[few] > high)
print(forest.score(X_test[numeric], margin_test > high))

# %% 15: boosting
boosted = GradientBoostingRegressor(n_estimators=120, max_depth=4, subsample=0.5, random_state=6)
boosted.fit(X_train[numeric], margin_train)
print(boosted.score(X_test[numeric], margin_test))

# %% 16: cross-validation
scores = {
    depth: cross_val_score(
        RandomForestClassifier(50, max_depth=depth, random_state=8),
        X_train.loc[few, numeric],
        margin_train[few] > high,
        cv=5,
    )
    for depth in (4, 8, 12, 16)
}
best = max(scores, key=lambda depth: scores[depth].mean())

# %% 17: clusters
scaled = StandardScaler().fit_transform(joined[numeric])
clusters = KMeans(8, n_init=8, random_state=9).fit(scaled)
joined["cluster"] = clusters.labels_

# %% 18: what the plots are drawn from
plane = PCA(2, random_state=10).fit_transform(scaled[: ROWS // 4])
curve = roc_curve(margin_test > high, forest.predict_proba(X_test[numeric])[:, 1])
bars = {name: np.histogram(joined[name], bins=80) for name in numeric}
matrix = confusion_matrix(margin_test > high, forest.predict(X_test[numeric]))

# %% 19: what is left unexplained
predicted = pd.DataFrame(
    {"ridge": ridge.predict(X_test), "boosted": boosted.predict(X_test[numeric])},
    index=X_test.index,
)
residuals = predicted.rsub(margin_test, axis=0)

# %% 20: the report


def report(model):
    """Return a line on a model's predictions."""
    error = mean_absolute_error(margin_test, predicted[model])
    return {"model": model, "r2": r2_score(margin_test, predicted[model]), "error": error}


summary = pd.DataFrame([report(model) for model in predicted]).set_index("model").round(4)
print(summary, best, matrix.tolist())
