"""The corpus `apple`: short lines in Chinese and English in which 苹果 and apple have two senses.

Half of the lines are about the fruit, half about the company. In every line the words before 苹果
or apple tell which sense it has, so that the state of a recurrent model right after the word can
tell it too. Words are separated by blanks, and English is in lower case, so that both senses are
spelt alike. Every word of the lines that are held out (valid and test) occurs in the lines of
train. The lines were written for jaxlm.
"""

from typing import NamedTuple

from jaxlm.errors import choose

WORDS = {"zh": "苹果", "en": "apple"}
"""The word with two senses, by language."""
SENSES = ("fruit", "company")
HELD_OUT = {"valid": 4, "test": 4}
"""Number of lines at the end of each list below that are in valid and in test."""


class Line(NamedTuple):
    """A line of the corpus.

    Attributes:
      text: the line.
      language: "zh" or "en".
      sense: the sense of 苹果 or apple in it: "fruit" or "company".
      split: "train", "valid" or "test".
    """

    text: str
    language: str
    sense: str
    split: str


_LINES = {
    ("zh", "fruit"): """\
妈妈 洗 了 一 个 苹果 给 我 吃
我 每天 早上 吃 一 个 苹果
树 上 的 苹果 红 了
果园 里 的 苹果 又 大 又 甜
奶奶 用 刀 削 苹果 皮
他 咬 了 一 口 苹果 很 甜
爷爷 在 果园 里 摘 苹果
这 篮 红 苹果 很 好吃
市场 里 三 斤 苹果 十 块 钱
孩子 爱 喝 新鲜 的 苹果 汁
妈妈 烤 了 一 个 苹果 派
秋天 农民 摘 苹果 和 梨
盘子 里 有 香蕉 和 苹果
奶奶 种 的 苹果 树 开花 了
医生 说 多 吃 苹果 身体 好
小 猴子 爬 上 树 偷 苹果 吃
弟弟 把 甜 苹果 吃 完 了
篮子 里 的 红 苹果 掉 了 一 个
农民 种 了 十 棵 苹果 树
她 切 好 香蕉 和 苹果 放 在 盘子 里
爷爷 买 了 五 斤 苹果 和 梨
冬天 吃 新鲜 苹果 身体 好
厨房 里 有 一 篮 苹果 又 红 又 甜
老师 用 刀 切 苹果 给 孩子 吃
妈妈 在 厨房 里 烤 苹果 派
妈妈 烤 苹果 派 给 我 吃
爷爷 洗 好 苹果 给 弟弟 吃
我 买 了 一 篮 红 苹果 和 香蕉
奶奶 洗 了 一 篮 苹果 给 孩子 吃
农民 在 果园 里 种 苹果 树
她 每天 喝 新鲜 的 苹果 汁
爷爷 切 了 一 个 苹果 很 好吃
树 上 有 十 个 红 苹果
妈妈 买 了 香蕉 和 苹果
弟弟 爬 上 树 摘 苹果 吃
厨房 里 奶奶 烤 苹果 派
""",
    ("zh", "company"): """\
科技 公司 苹果 发布 了 新 手机
昨天 股市 里 苹果 的 股票 涨 了
投资者 买 了 苹果 的 股票
工程师 离开 谷歌 加入 苹果 公司
分析师 认为 苹果 的 利润 会 增长
新闻 说 苹果 发布 了 新 电脑
这 家 科技 公司 和 苹果 竞争
法院 判 苹果 公司 赔 钱
手机 厂商 三星 和 苹果 竞争
总裁 宣布 苹果 的 利润 下降
软件 工程师 在 苹果 公司 上班
用户 喜欢 用 苹果 手机
记者 采访 了 苹果 总裁
去年 股市 里 苹果 的 股票 跌 了
工厂 为 苹果 公司 生产 手机
投资者 认为 苹果 的 股票 会 涨
员工 每天 用 苹果 电脑 上班
谷歌 和 苹果 发布 了 新 软件
记者 说 苹果 公司 去年 利润 增长
微软 和 苹果 公司 竞争
分析师 喜欢 苹果 的 股票
新闻 里 总裁 介绍 苹果 的 新 手机
用户 等 苹果 发布 新 电脑
华尔街 看好 苹果 公司 的 利润
新闻 介绍 了 苹果 的 新 电脑
记者 介绍 苹果 手机 和 软件
工程师 离开 三星 加入 苹果 公司
新闻 里 说 苹果 的 利润 增长
分析师 说 苹果 的 股票 会 跌
记者 在 新闻 里 介绍 苹果 新 手机
三星 和 苹果 公司 竞争
工程师 为 苹果 公司 生产 软件
谷歌 总裁 认为 苹果 的 利润 会 下降
华尔街 投资者 喜欢 苹果 的 股票
法院 宣布 苹果 公司 赔 钱
去年 科技 公司 苹果 利润 增长
""",
    ("en", "fruit"): """\
my mother washed a red apple for lunch
i eat an apple every morning
she peeled the apple with a knife
the farmer picked a ripe apple from the tree
he took a bite of the sweet apple
grandma baked a warm apple pie
the children drink fresh apple juice
there is a worm in the ripe apple
the basket held a pear and an apple
the monkey climbed the tree and stole an apple
we cut the pear and the apple into slices
the orchard grows the sweetest apple in the valley
a green apple fell from the tree
the doctor told me to eat an apple a day
grandma put an apple in my lunch basket
the cook added sugar to the apple pie
the farmer planted an apple tree in the orchard
the boy took a bite of a green apple and smiled
she sliced a juicy apple for the children
in autumn we picked an apple from the orchard
the horse likes to eat a juicy apple
a bowl with a banana and an apple stood in the kitchen
my mother peeled an apple in the kitchen
fresh fruit such as a banana or an apple is good for you
the cook baked an apple cake
grandma cooked apple jam with sugar
the children washed an apple in the kitchen
he ate a ripe apple under the tree
the farmer cut a ripe apple into slices
grandma washed an apple for the children
the monkey likes to eat a sweet apple
my mother added sugar to the fresh apple juice
she picked a green apple from the tree
he peeled a juicy apple with a knife
there is a pear and an apple in the bowl
the cook baked an apple pie in the kitchen
""",
    ("en", "company"): """\
the technology company apple launched a new phone
investors bought apple shares yesterday
shares of apple rose after the report
the engineer left google to join apple last year
analysts expect apple profits to grow
the court ordered apple to pay a fine
google and apple compete for users
the chief executive of apple presented a new computer
reporters say apple will launch a new phone
wall street expects apple profits to fall
samsung and apple compete in the market
software engineers at apple fixed the bug
shares in apple fell on wall street
the company sued apple over a patent
microsoft and apple signed an agreement
users love the new apple phone
the factory builds apple phones in china
the stock market punished apple after the report
analysts say apple shares will rise
an engineer at apple designed the chip
investors hope that apple will pay a dividend
the software from apple runs on every computer
last year the company apple reported record profits
reporters asked apple about the new chip
an engineer left microsoft to join apple last year
the factory in china builds apple computers
google sued apple over a phone patent
analysts on wall street say apple will grow
analysts say apple profits will fall
an engineer at samsung left to join apple last year
microsoft sued apple over a patent
investors expect apple to pay a dividend
shares of apple fell yesterday
samsung and apple signed an agreement
the chief executive of apple presented the new chip
reporters hope that apple will launch a new computer
""",
}


def _labelled() -> tuple[Line, ...]:
    """Return every line with its labels. Languages and senses alternate within each split."""
    splits = [name for name, count in HELD_OUT.items() for _ in range(count)]
    kinds = []
    for (language, sense), block in _LINES.items():
        texts = block.splitlines()
        in_splits = ["train"] * (len(texts) - len(splits)) + splits
        kinds.append(
            [
                Line(text, language, sense, split)
                for text, split in zip(texts, in_splits, strict=True)
            ]
        )
    return tuple(line for lines in zip(*kinds, strict=True) for line in lines)


LINES = _labelled()
"""Every line, in the order of the corpus.

Example:
  >>> LINES[0]
  Line(text='妈妈 洗 了 一 个 苹果 给 我 吃', language='zh', sense='fruit', split='train')
"""


def lines(language: str, *splits: str) -> tuple[Line, ...]:
    """Return the lines of a language in some splits; without splits, in all.

    Example:
      >>> len(lines("zh")), [line.sense for line in lines("en", "valid", "test")].count("fruit")
      (72, 8)

    Args:
      language: "zh" or "en".
      *splits: "train", "valid" or "test".
    Raises:
      UserError: for another language or split.
    """
    choose(WORDS, language, "language")
    for split in splits:
        choose(TEXTS, split, "split")
    return tuple(
        line
        for line in LINES
        if line.language == language and line.split in (splits or tuple(TEXTS))
    )


TEXTS = {
    split: "".join(f"{line.text}\n" for line in LINES if line.split == split)
    for split in ("train", *HELD_OUT)
}
"""The text of each split."""
