from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from querycache import CacheableMixin
from querycache.flask import QueryCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///shop.db"
db = SQLAlchemy(app)
cache = QueryCache(app, db)


class Product(CacheableMixin, db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@app.get("/")
def products():  # the second request, in any worker, costs no SELECT
    return [product.name for product in db.session.scalars(db.select(Product).order_by(Product.name))]


@app.post("/<name>")
def add(name):  # and the next request after this one shows the new product
    db.session.add(Product(name=name))
    db.session.commit()
    return "", 204


with app.app_context():
    db.create_all()
