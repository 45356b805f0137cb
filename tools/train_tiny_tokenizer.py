"""Write data/tiny_tokenizer: a small bilingual text of our own and the two SentencePiece models trained on it.

    python tools/train_tiny_tokenizer.py            # writes text.txt, bpe.model, ice.model
    python tools/train_tiny_tokenizer.py --check    # exits 1 if the files in the repository differ

`bpe.model` has the settings of the ChatGLM2/3 vocabulary (BPE, bytes as fallback, single digits, identity
normalisation, a space in front); `ice.model` has the layout of ChatGLM-6B's `ice_text.model`: pieces for newline,
tab and runs of 2 to 80 spaces, the masks, and start and end of a piece. Every word of the text was written for this
project; sentences come from templates, so the text says nothing true or false about anybody.
"""
from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent.parent / "data" / "tiny_tokenizer"

people_en = "Anna Ben Carla David Emma Felix Grace Hugo Iris Jack Kira Leo Mona Nick Olga Paul Rosa Sam Tina Wei".split()
people_zh = "小明 小红 老王 李雷 阿强 婷婷 小刘 张伟 陈静 奶奶 爷爷 妈妈 爸爸 哥哥 姐姐 弟弟 妹妹 老师 同学 邻居".split()
cities = [("Beijing", "北京"), ("Shanghai", "上海"), ("Guangzhou", "广州"), ("Hangzhou", "杭州"), ("Chengdu", "成都"),
          ("Xi'an", "西安"), ("London", "伦敦"), ("Paris", "巴黎"), ("Berlin", "柏林"), ("Tokyo", "东京"),
          ("New York", "纽约"), ("Nanjing", "南京"), ("Wuhan", "武汉"), ("Sydney", "悉尼")]
things = [("book", "书"), ("umbrella", "雨伞"), ("phone", "手机"), ("computer", "电脑"), ("bicycle", "自行车"),
          ("apple", "苹果"), ("cup of tea", "一杯茶"), ("ticket", "车票"), ("letter", "信"), ("coat", "外套"),
          ("dress", "连衣裙"), ("pair of shoes", "鞋子"), ("camera", "相机"), ("map", "地图"), ("key", "钥匙"),
          ("lamp", "台灯"), ("chair", "椅子"), ("picture", "照片"), ("cake", "蛋糕"), ("notebook", "笔记本")]
weather = [("sunny", "晴天"), ("cloudy", "多云"), ("rainy", "下雨"), ("windy", "刮风"), ("snowy", "下雪"),
           ("foggy", "有雾"), ("hot", "很热"), ("cold", "很冷"), ("warm", "暖和"), ("cool", "凉爽")]
feelings = [("happy", "高兴"), ("tired", "累"), ("hungry", "饿"), ("busy", "忙"), ("excited", "兴奋"), ("calm", "平静"),
            ("worried", "担心"), ("curious", "好奇"), ("proud", "骄傲"), ("surprised", "惊讶")]
subjects = [("mathematics", "数学"), ("history", "历史"), ("music", "音乐"), ("physics", "物理"), ("chemistry", "化学"),
            ("biology", "生物"), ("geography", "地理"), ("art", "美术"), ("sport", "体育"), ("programming", "编程")]
goods = [("shirt", "衬衫"), ("skirt", "半身裙"), ("jacket", "夹克"), ("trousers", "裤子"), ("sweater", "毛衣"),
         ("hat", "帽子"), ("scarf", "围巾"), ("bag", "包")]
colours = [("red", "红色"), ("blue", "蓝色"), ("green", "绿色"), ("white", "白色"), ("black", "黑色"),
           ("yellow", "黄色"), ("grey", "灰色"), ("pink", "粉色")]
styles = [("simple", "简约"), ("classic", "经典"), ("casual", "休闲"), ("elegant", "优雅"), ("sporty", "运动"),
          ("soft", "柔软"), ("loose", "宽松"), ("slim", "修身")]
parts_zh = ["领口", "袖口", "腰部", "面料", "图案", "口袋", "拉链", "下摆", "版型", "线条"]

english = """What is the capital of this country, and how many people live there?
Please write a short story about a cat that wants to learn how to read.
I would like to know the difference between a list and a tuple.
Thank you for your help. You are welcome, see you tomorrow morning.
The model reads the question, looks at every word and predicts the next token.
A language model learns from text: it fills the blanks and it continues sentences.
How do I make a good cup of coffee? Heat the water, wait a little, then pour it slowly.
The quick answer is yes, but the longer answer depends on what you mean by that.
Give three tips for staying healthy: eat well, sleep enough, and walk every day.
Once upon a time there was a small house near the river, and in the house lived an old man.
She opened the window because the room was too warm and the birds were singing outside.
If the train is late again, we should take the bus or call a friend with a car.
Training a network means changing its weights so that the loss becomes smaller.
The first part of the text is visible to everyone; the second part sees only its own past.
Attention compares a query with all keys and takes a weighted sum of the values.
Can you translate this sentence into Chinese and explain the grammar?
There are seven days in a week, twelve months in a year and sixty minutes in an hour.
I am an assistant. I can answer questions, write text, and help you with code.
Who are you? Who made you? What can you do for me today?
Sorry, I do not know the answer to this question, so I will not guess.
The doctor asked the patient about the pain, the fever and the medicine he had taken.
It is raining cats and dogs, so bring your boots, and do not forget the keys.
Our team finished the project on time, under budget and without any serious mistakes.
A memory plan lists weights, gradients, optimizer states and activations in bytes.
Summarise the following paragraph in one sentence, then suggest a better title.
The museum opens at nine, closes at five, and is free for children and students.""".splitlines()

chinese = """这个国家的首都是哪里？那里有多少人口？
请写一个关于小猫想学认字的短故事。
你好，很高兴认识你，请问有什么可以帮助你的吗？
我想知道列表和元组有什么区别，能举个例子吗？
谢谢你的帮助，不客气，我们明天早上见。
模型先阅读问题，再看每一个词，然后预测下一个词。
语言模型从文本中学习：它填补空白，也续写句子。
怎样泡一杯好茶？先把水烧开，等一会儿，再慢慢倒进杯子里。
简单的回答是可以，但更完整的回答取决于你的意思。
保持健康的三个建议：饮食均衡，睡眠充足，坚持锻炼。
从前，河边有一座小房子，房子里住着一位老人和他的狗。
她打开窗户，因为房间太热，外面的鸟儿正在唱歌。
如果火车又晚点了，我们就坐公共汽车，或者打电话叫朋友开车来接。
训练一个网络，就是不断调整它的参数，让损失变得更小。
文本的第一部分大家都能看见，第二部分只能看见自己的过去。
注意力机制用查询和所有的键作比较，再对值做加权求和。
请把这句话翻译成英文，并解释其中的语法。
一个星期有七天，一年有十二个月，一小时有六十分钟，一天有二十四小时。
我是一个人工智能助手，可以回答问题、写文章，也可以帮你写代码。
你是谁？是谁开发了你？你今天能为我做些什么？
对不起，我不知道这个问题的答案，所以不会乱猜。
医生询问病人哪里疼，有没有发烧，吃过什么药，睡得好不好。
外面下着大雨，出门记得带伞，别忘了拿钥匙和钱包。
我们的团队按时完成了项目，没有超出预算，也没有出现严重的错误。
显存计划列出权重、梯度、优化器状态和激活值各占多少字节。
用一句话总结下面的段落，然后给出一个更好的标题。
博物馆上午九点开门，下午五点关门，学生和儿童免费参观。
春天花开，夏天炎热，秋天叶落，冬天飘雪，四季各有各的美。
知识就是力量，学习需要耐心，成功离不开努力和时间。
中国有悠久的历史和丰富的文化，不同的地区有不同的语言和风俗。
这件衣服采用优质的棉质面料，穿着舒适透气，适合日常出行。
经典的圆领设计，修饰颈部线条，宽松的版型显瘦又百搭。
请根据下面的关键词写一段商品描述，字数不要太多。
科学家发现，植物利用阳光、水和二氧化碳制造养分并放出氧气。
电脑的处理器负责计算，内存保存数据，硬盘储存文件，显卡负责图像。
城市交通越来越方便，地铁、公交、出租车和共享单车随处可见。
经济发展带来新的机会，同时也产生环境和社会方面的问题。
政府应当保护人民的权利，法律面前人人平等。
微调、量化、部署、评测：先跑通小模型，再换成大模型。""".splitlines()

characters = """的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能
好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此
实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世
气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常
提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让
认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联权往展该领传近留红治决周保达办运武半候七必城父强步完革
深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史商千片容研像找友孩站广改议形委
早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坏兴切消整食照除急克""".replace("\n", "")

code = """import json
import torch
from pathlib import Path
def add(first, second):
    return first + second
def main():
    for index in range(10):
        if index % 2 == 0:
            print(index, "is even")
        else:
            print(f"{index} is odd")
class Model(nn.Module):
    def __init__(self, hidden_size=64, num_layers=2):
        super().__init__()
        self.linear = nn.Linear(hidden_size, hidden_size)
    def forward(self, input_ids, attention_mask=None):
        return self.linear(input_ids)
while not done and steps < 1000:
    loss = model(**batch).loss
    loss.backward(); optimizer.step(); optimizer.zero_grad()
try:
    value = json.loads(text)["arguments"]
except (KeyError, ValueError) as error:
    raise ValueError(f"bad row: {error}") from None
with open("data.jsonl", encoding="utf-8") as file:
    rows = [json.loads(line) for line in file if line.strip()]
tool_call(city='Beijing', unit='celsius')
SELECT name, price FROM goods WHERE price >= 100 ORDER BY name;
git commit -m "fix: off by one" && make test
<div class="note"><p>Hello &amp; goodbye</p></div>
# 标题：第一章
- [x] item one; - [ ] item two
| name | value |
$$ y = W x + b $$  ~ ^ ` @ \\ / | { } [ ] < > ! ? % & * _ + = " '""".splitlines()

chat = ["[Round 1]", "问：", "答：", "[Round 2]", "Question: ", "Answer: ", "user", "assistant", "system",
        "observation",
        "Answer the following questions as best as you can. You have access to the following tools:"]


def english_sentence(rng: random.Random) -> str:
    "One English sentence from a template."
    who, other = rng.sample(people_en, 2)
    city, thing, sky, mood, topic = (rng.choice(x)[0] for x in (cities, things, weather, feelings, subjects))
    (colour, _), (item, _), (style, _) = (rng.choice(x) for x in (colours, goods, styles))
    n, m = rng.randint(2, 99), rng.randint(2, 2000)
    return rng.choice([
        f"{who} bought a {thing} in {city} for {n} dollars and gave it to {other}.",
        f"Yesterday it was {sky} in {city}, so {who} felt {mood} and stayed at home.",
        f"What is {n} plus {m}? The answer is {n + m}.",
        f"{who} has studied {topic} for {n % 12 + 1} years and wants to become a teacher in {city}.",
        f"How is the weather in {city} today? It is {sky}, about {n % 38} degrees.",
        f"Could you help {who} find the {thing}? {other} saw it {n} minutes ago.",
        f"This {colour} {item} has a {style} design and costs {m}.{n:02d} yuan.",
        f"\"I am {mood},\" said {who}, \"because my {topic} test was easier than I thought.\"",
        f"{who} and {other} walked through the streets of {city} and talked about {topic}.",
    ])


def chinese_sentence(rng: random.Random) -> str:
    "One Chinese sentence from a template."
    who, other = rng.sample(people_zh, 2)
    city, thing, sky, mood, topic = (rng.choice(x)[1] for x in (cities, things, weather, feelings, subjects))
    (_, colour), (_, item), (_, style) = (rng.choice(x) for x in (colours, goods, styles))
    part, n, m = rng.choice(parts_zh), rng.randint(2, 99), rng.randint(2, 2000)
    return rng.choice([
        f"{who}在{city}花了{n}元买{thing}，送给了{other}。",
        f"昨天{city}{sky}，{who}觉得很{mood}，所以没有出门。",
        f"{n}加{m}等于多少？答案是{n + m}。",
        f"{who}学了{n % 12 + 1}年{topic}，希望将来在{city}当老师。",
        f"今天{city}的天气怎么样？{sky}，气温大约{n % 38}度。",
        f"能帮{who}找一下{thing}吗？{other}{n}分钟前还看见过。",
        f"类型#{item}*颜色#{colour}*风格#{style}",
        f"这款{colour}的{item}采用{style}的设计，{part}的细节十分精致，售价{m}元。",
        f"“我很{mood}，”{who}说，“因为{topic}考试比我想象的容易。”",
        f"{who}和{other}走在{city}的街上，一边走一边聊{topic}。",
    ])


def tool_line(rng: random.Random) -> str:
    "One line of JSON as tools and data files use it."
    city, thing = rng.choice(cities), rng.choice(things)
    return json.dumps(rng.choice([
        {"name": "get_weather", "parameters": {"city": rng.choice(city), "unit": "celsius"}},
        {"name": "search", "description": "Search the web",
         "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}},
        {"instruction": chinese_sentence(rng), "input": "", "output": chinese_sentence(rng)},
        {"content": f"类型#{rng.choice(goods)[1]}", "summary": chinese_sentence(rng)},
        {"role": "user", "content": english_sentence(rng)},
        {"name": rng.choice(thing), "price": rng.randint(1, 999) / 10, "in_stock": rng.random() < 0.5},
    ]), ensure_ascii=False)


def text_lines(seed: int = 7) -> list[str]:
    "All lines of the training text, in a fixed order for a fixed `seed`."
    rng = random.Random(seed)
    lines = (english + chinese) * 5 + code * 10 + chat * 5 + [characters[i : i + 24] for i in range(0,
                                                                                                    len(characters),
                                                                                                    24)]
    lines += [english_sentence(rng) for _ in range(500)] + [chinese_sentence(rng) for _ in range(700)]
    return lines + [tool_line(rng) for _ in range(150)]


def ice_pieces() -> list[str]:
    "Pieces that ChatGLM-6B's vocabulary has beside words: newline, tab, runs of spaces, masks, start and end."
    blanks = [f"<|blank_{n}|>" for n in range(2, 81)]
    return ["<n>", "<|tab|>", *blanks, "[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>",
            "<dBLOCK>"]


def train(lines: list[str], **settings) -> bytes:
    "Serialised SentencePiece model trained on `lines` in one thread, which makes it reproducible."
    import sentencepiece as spm
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, num_threads=1, minloglevel=2,
                                   byte_fallback=True, normalization_rule_name="identity",
                                   remove_extra_whitespaces=False,
                                   add_dummy_prefix=True, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2,
                                   **settings)
    return model.getvalue()


def bundled_files() -> dict[str, bytes]:
    "File name → bytes of everything this script writes."
    lines = text_lines()
    bpe = train(lines, model_type="bpe", vocab_size=2000, pad_id=-1, split_digits=True, max_sentencepiece_length=16,
                allow_whitespace_only_pieces=True)
    ice = train(lines, model_type="unigram", vocab_size=2000, pad_id=3, user_defined_symbols=ice_pieces(),
                hard_vocab_limit=False)
    return {"text.txt": ("\n".join(lines) + "\n").encode(), "bpe.model": bpe, "ice.model": ice}


def main() -> int:
    "Write the files, or compare them with `--check`; 0 when all is well."
    files, check = bundled_files(), "--check" in sys.argv[1:]
    folder.mkdir(parents=True, exist_ok=True)
    stale = [n for n, content in files.items()
             if not (folder / n).is_file() or (folder / n).read_bytes() != content]
    for name in [] if check else files: (folder / name).write_bytes(files[name])
    sizes = ", ".join(f"{n} {len(content) // 1024} kB" for n, content in files.items())
    print(f"{', '.join(stale)} differ" if check and stale else sizes)
    return int(check and bool(stale))


if __name__ == "__main__": raise SystemExit(main())
