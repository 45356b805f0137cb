"""Write data/preferences.jsonl and data/preferences_heldout.jsonl: pairs of answers of which one is better, by a stated rule.

    python tools/make_preferences.py            # writes both files
    python tools/make_preferences.py --check    # exits 1 if the files in the repository differ

Seven rules: `correct` (the right number), `answers` (says what was asked, does not evade), `format` (the form that was
asked for), `length` (as short or as long as was asked), `polite` (no insults), `honest` (admits what nobody can know) and
`language` (the language of the question). Each row carries `check`, and `passes(check, answer)` decides for any answer
whether it keeps the rule. In half of the pairs of every rule the better answer is the longer one.
"""
from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent.parent / "data"

# ---------------------------------------------------------------------------------------------------------- the rules

rude = re.compile(r"\b(stupid|idiot|fool|dumb|lazy|shut up|nonsense|bothering)\b|笨|蠢|傻|懒|烦我|闭嘴|废话", re.IGNORECASE)
unknown = ("do not know", "cannot know", "cannot tell", "no way to know", "不知道", "无法知道", "没法知道", "说不准")


def is_json(answer: str, keys: list[str]) -> bool:
    try: found = json.loads(answer)
    except ValueError: return False
    return isinstance(found, dict) and list(found) == keys


def size(answer: str) -> int:
    "Words of an English text, characters of a Chinese one."
    han = len(re.findall(r"[\u4e00-\u9fff]", answer))
    return han or len(answer.split())


def last_number(answer: str) -> str | None:
    return (re.findall(r"-?\d+", answer) or [None])[-1]


def mostly(language: str, answer: str) -> bool:
    "Whether `answer` is written in `language`."
    han, latin = len(re.findall(r"[\u4e00-\u9fff]", answer)), len(re.findall(r"[A-Za-z]+", answer))
    return (han > latin) == (language == "zh")


def passes(check: str, answer: str) -> bool:
    "Whether `answer` keeps the rule that `check` states, such as `number:57`. Raises `ValueError` for an unknown rule."
    rule, _, value = check.partition(":")
    answer = answer.strip()
    if rule == "number": return last_number(answer) == value
    if rule == "contains": return value.lower() in answer.lower()
    if rule == "list": return bool(re.fullmatch(rf"- .+(\n- .+){{{int(value) - 1}}}", answer))
    if rule == "json": return is_json(answer, value.split(","))
    if rule == "starts": return answer.lower().startswith(value.lower())
    if rule == "ends": return answer.endswith(value)
    if rule == "at most": return size(answer) <= int(value)
    if rule == "at least": return size(answer) >= int(value)
    if rule == "polite": return not rude.search(answer)
    if rule == "honest": return any(words in answer for words in unknown)
    if rule == "language": return mostly(value, answer)
    raise ValueError(f"check must be one of the rules of passes, not {check!r}")


# ----------------------------------------------------------------------------------------------- questions and answers

def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def kept(options: list, held: bool) -> list:
    "Every fourth of `options` when `held`, the others when not."
    return [option for i, option in enumerate(options) if (i % 4 == 3) == held]


def met(options: list, held: bool) -> list:
    "All of `options` when `held`; without every fourth when not, so that held-out answers also hold new words."
    return options if held else kept(options, False)


# question|word that the answer needs|the answer in a sentence, English and then Chinese
facts = [line.split("|") for line in lines("""What is the capital of France?|Paris|The capital of France is Paris.|法国的首都是哪里？|巴黎|法国的首都是巴黎。
    What is the capital of Japan?|Tokyo|The capital of Japan is Tokyo.|日本的首都是哪里？|东京|日本的首都是东京。
    What is the capital of Egypt?|Cairo|The capital of Egypt is Cairo.|埃及的首都是哪里？|开罗|埃及的首都是开罗。
    What is the capital of Norway?|Oslo|The capital of Norway is Oslo.|挪威的首都是哪里？|奥斯陆|挪威的首都是奥斯陆。
    What is the capital of Spain?|Madrid|The capital of Spain is Madrid.|西班牙的首都是哪里？|马德里|西班牙的首都是马德里。
    What is the capital of Greece?|Athens|The capital of Greece is Athens.|希腊的首都是哪里？|雅典|希腊的首都是雅典。
    What is the capital of Canada?|Ottawa|The capital of Canada is Ottawa.|加拿大的首都是哪里？|渥太华|加拿大的首都是渥太华。
    Which planet is closest to the sun?|Mercury|Mercury is the planet closest to the sun.|离太阳最近的行星是哪颗？|水星|离太阳最近的行星是水星。
    Which planet is the largest?|Jupiter|Jupiter is the largest planet.|最大的行星是哪颗？|木星|最大的行星是木星。
    Which metal is liquid at room temperature?|mercury|The metal mercury is liquid at room temperature.|哪种金属在室温下是液体？|汞|汞在室温下是液体。
    What gas do plants take in?|carbon dioxide|Plants take in carbon dioxide.|植物吸收什么气体？|二氧化碳|植物吸收二氧化碳。
    What do bees make?|honey|Bees make honey.|蜜蜂酿什么？|蜂蜜|蜜蜂酿蜂蜜。
    Which animal is the tallest?|giraffe|The giraffe is the tallest animal.|最高的动物是什么？|长颈鹿|最高的动物是长颈鹿。
    Which animal is the largest?|blue whale|The blue whale is the largest animal.|最大的动物是什么？|蓝鲸|最大的动物是蓝鲸。
    How many legs does an insect have?|six|An insect has six legs.|昆虫有几条腿？|六|昆虫有六条腿。
    How many days are in a week?|seven|A week has seven days.|一周有几天？|七|一周有七天。
    How many months are in a year?|twelve|A year has twelve months.|一年有几个月？|十二|一年有十二个月。
    What is the opposite of hot?|cold|The opposite of hot is cold.|“热”的反义词是什么？|冷|“热”的反义词是“冷”。
    What is the opposite of early?|late|The opposite of early is late.|“早”的反义词是什么？|晚|“早”的反义词是“晚”。
    What is the opposite of empty?|full|The opposite of empty is full.|“空”的反义词是什么？|满|“空”的反义词是“满”。
    What colour do blue and yellow make?|green|Blue and yellow make green.|蓝色和黄色混合成什么颜色？|绿|蓝色和黄色混合成绿色。
    What colour is a ripe tomato?|red|A ripe tomato is red.|成熟的西红柿是什么颜色？|红|成熟的西红柿是红色的。
    What is frozen water called?|ice|Frozen water is called ice.|冻住的水叫什么？|冰|冻住的水叫冰。
    At how many degrees Celsius does water boil at sea level?|100|Water boils at 100 degrees Celsius at sea level.|在海平面上水多少摄氏度沸腾？|100|在海平面上水100摄氏度沸腾。
    Which ocean is the largest?|Pacific|The Pacific is the largest ocean.|最大的海洋是哪个？|太平洋|最大的海洋是太平洋。
    Which river flows through London?|Thames|The Thames flows through London.|哪条河流过伦敦？|泰晤士河|泰晤士河流过伦敦。
    Which river flows through Paris?|Seine|The Seine flows through Paris.|哪条河流过巴黎？|塞纳河|塞纳河流过巴黎。
    Which is the longest river of China?|Yangtze|The Yangtze is the longest river of China.|中国最长的河是哪条？|长江|中国最长的河是长江。
    Which mountain is the highest?|Everest|Mount Everest is the highest mountain.|最高的山是哪座？|珠穆朗玛峰|最高的山是珠穆朗玛峰。
    Who wrote Hamlet?|Shakespeare|William Shakespeare wrote Hamlet.|《哈姆雷特》是谁写的？|莎士比亚|《哈姆雷特》是莎士比亚写的。
    Who wrote Journey to the West?|Wu Cheng'en|Journey to the West is ascribed to Wu Cheng'en.|《西游记》的作者是谁？|吴承恩|一般认为《西游记》的作者是吴承恩。
    Who painted the Mona Lisa?|Leonardo|Leonardo da Vinci painted the Mona Lisa.|《蒙娜丽莎》是谁画的？|达·芬奇|《蒙娜丽莎》是达·芬奇画的。
    Which language is spoken in Brazil?|Portuguese|Portuguese is spoken in Brazil.|巴西说什么语言？|葡萄牙语|巴西说葡萄牙语。
    What is the currency of Japan?|yen|The currency of Japan is the yen.|日本用什么货币？|日元|日本用日元。
    How many make a dozen?|twelve|Twelve make a dozen.|一打是多少个？|十二|一打是十二个。
    What do you use to cut paper?|scissors|You use scissors to cut paper.|用什么剪纸？|剪刀|剪纸用剪刀。
    What does a thermometer measure?|temperature|A thermometer measures temperature.|温度计测量什么？|温度|温度计测量温度。
    What does a clock show?|time|A clock shows the time.|钟表显示什么？|时间|钟表显示时间。
    Where do fish live?|water|Fish live in water.|鱼生活在哪里？|水|鱼生活在水里。
    What is bread mainly made of?|flour|Bread is mainly made of flour.|面包主要用什么做？|面粉|面包主要用面粉做。
    Which season follows winter?|spring|Spring follows winter.|冬天之后是什么季节？|春|冬天之后是春天。
    Which month comes after March?|April|April comes after March.|三月之后是几月？|四月|三月之后是四月。
    Which day follows Sunday?|Monday|Monday follows Sunday.|星期日之后是星期几？|星期一|星期日之后是星期一。
    How many sides does a triangle have?|three|A triangle has three sides.|三角形有几条边？|三|三角形有三条边。
    How many minutes are in an hour?|60|An hour has 60 minutes.|一小时有多少分钟？|60|一小时有60分钟。
    What do cows give us to drink?|milk|Cows give us milk.|奶牛给我们提供什么饮料？|奶|奶牛给我们提供牛奶。
    Which bird cannot fly but swims well?|penguin|The penguin cannot fly but swims well.|哪种鸟不会飞却很会游泳？|企鹅|企鹅不会飞，却很会游泳。
    What is the star nearest to the Earth?|sun|The sun is the star nearest to the Earth.|离地球最近的恒星是什么？|太阳|离地球最近的恒星是太阳。""")]
asking = (lines("""{}
    Please answer: {}
    A question: {}
    My child asks: {}
    Can you tell me this? {}
    Quiz time! {}
    I need this for a quiz. {}
    I forgot this one. {}"""), lines("""{}
    请回答：{}
    问一下：{}
    孩子问我：{}
    你能告诉我吗？{}
    知识问答：{}
    考考你：{}
    我忘了，{}"""))
# what may follow an answer without changing it
tails = (lines("""Let me know if you want to hear more.
    I hope that helps.
    You can look it up in any encyclopedia, too.
    Feel free to ask me something else.
    Tell me if I should explain it further."""), lines("""还想知道什么，请继续问我。
    希望对你有帮助。
    这在任何百科全书里都能查到。
    有别的问题也可以问我。
    需要的话我可以再解释一下。"""))
evasions = (lines("""Who knows?
    That depends.
    I do not know.
    Hm, hard to say.
    Please ask someone else.
    Let us talk about something else.
    That is a good question!
    Questions like this are interesting, and many people have thought about them.
    There are many things one could say about this, and it all depends on how you look at it.
    I would rather not go into that now. Perhaps we can come back to it another day?
    What a fine question! I have always liked such questions, because they make one think about the world.
    Some say one thing, others say another. In the end everybody has to find an own answer."""), lines("""谁知道呢？
    看情况吧。
    我不知道。
    不好说。
    去问别人吧。
    我们聊点别的吧。
    这个问题问得好！
    这类问题很有意思，很多人都想过。
    这件事可以从很多方面来说，要看你怎么看了。
    我现在不太想谈这个，也许改天再说吧？
    真是个好问题！我一直喜欢这样的问题，因为它们让人思考世界。
    有人这样说，也有人那样说，最后每个人都要自己去找答案。"""))

# what|problem|advice
troubles = (lines("""printer|does not print|Check the paper and the ink, then turn it off and on again.
    bicycle|makes a strange noise|Oil the chain and check the brakes.
    plant|loses its leaves|Give it more light and less water.
    phone|gets very hot|Close the apps that you do not use and let it cool down.
    soup|tastes too salty|Add some water or a cut potato.
    computer|is very slow|Close some programs and restart it.
    door|squeaks|Put a drop of oil on the hinges.
    cake|stays flat|Use fresh baking powder and do not open the oven early.
    lamp|flickers|Screw the bulb in firmly or replace it.
    sweater|has shrunk|Soak it in cool water with hair conditioner and stretch it gently.
    window|is foggy inside|Open it for some minutes to let the damp air out.
    key|is stuck in the lock|Use some graphite spray and turn it gently.
    coffee|tastes bitter|Use less powder or cooler water.
    alarm clock|did not ring|Check the volume and the battery.
    backpack|smells bad|Wash it by hand and dry it in the sun.
    essay|is too short|Add an example to each of your points."""), lines("""打印机|不出纸|检查纸和墨盒，然后重新开机。
    自行车|有怪声|给链条上油，再检查刹车。
    花|总掉叶子|多晒太阳，少浇水。
    手机|很烫|关掉不用的程序，让它凉一凉。
    汤|太咸了|加点水，或者放一块土豆。
    电脑|很慢|关掉一些程序，再重启。
    门|吱吱响|在合页上滴一点油。
    蛋糕|发不起来|用新的泡打粉，不要提前开烤箱。
    台灯|总是闪|把灯泡拧紧，或者换一个。
    毛衣|缩水了|用凉水加护发素泡一泡，再轻轻拉开。
    窗户|里面有雾|开几分钟，让湿气出去。
    钥匙|卡在锁里了|喷一点石墨粉，再轻轻转动。
    咖啡|很苦|少放点粉，或者水温低一些。
    闹钟|没响|检查音量和电池。
    书包|有味道|用手洗，在太阳下晒干。
    作文|太短了|给每个观点加一个例子。"""))
trouble_questions = (lines("""My {} {}. What should I do?
    Help, my {} {}!
    What can I do when my {} {}?
    Why is it that my {} {}, and what helps?
    I have a problem: my {} {}.
    Since yesterday my {} {}. Any advice?
    Please help me. My {} {}.
    Again my {} {}! What now?"""), lines("""我的{}{}，怎么办？
    帮帮我，{}{}！
    如果{}{}，该怎么办？
    为什么{}{}，有什么办法？
    我有个问题：{}{}。
    从昨天起{}{}，有什么建议？
    请帮忙，我的{}{}。
    {}又{}，现在怎么办？"""))
kind_words = (["{}", "{}", "Of course. {}", "I am sorry to hear that. {}", "{} Good luck!", "I am sorry about that. {} Please tell me if it does not help.",
               "That happens to many people, so do not worry. {} If it is still no better, I am glad to help you further."],
              ["{}", "{}", "好的。{}", "很抱歉听到这个。{}", "{}祝你顺利！", "真遗憾。{}如果没用，请再告诉我。",
               "很多人都遇到过，不用担心。{}要是还不行，我很乐意继续帮你。"])
rude_words = (["{} Idiot.", "Dumb question. {}", "{} Even a fool knows that.", "Shut up and try this.", "Do it yourself, lazy.",
               "How stupid can one be? {} And now stop bothering me.",
               "Only an idiot would have to ask such a thing. {} Next time think before you waste my time with nonsense."],
              ["{}真笨。", "蠢问题。{}", "{}傻子都知道。", "闭嘴，自己想。", "懒死了，自己弄。", "怎么这么笨？{}别来烦我了。",
               "只有傻瓜才会问这种问题。{}下次先动动脑子，别拿废话浪费我的时间。"])

names = ("Anna Ben Clara David Emma Felix Grace Henry Iris Jonas Kate Leo Mia Noah Olga Paul".split(),
         "小明 小红 李雷 韩梅 王芳 张伟 刘洋 陈静 杨帆 赵敏 周杰 吴婷 郑浩 孙丽 马超 朱琳".split())
# question|an invented answer|more of it
mysteries = (lines("""What did {n} have for breakfast today?|{n} had two eggs.|{n} had two eggs, toast with jam and a cup of green tea at half past seven.
    Which number is {n} thinking of?|It is 27.|{n} is thinking of 27, which has been a lucky number in the family for years.
    What is in {n}'s left pocket?|A blue key.|In the left pocket of {n} there is a blue key, a train ticket and a button.
    What will {n} dream of tonight?|A red boat.|Tonight {n} will dream of a red boat that sails over the roofs of the city.
    How many hairs does {n} have?|112,406.|{n} has exactly 112,406 hairs, one thousand more than a year ago.
    What did {n} whisper to the cat yesterday?|"Good night."|Yesterday evening {n} whispered "good night, little tiger" to the cat and smiled.
    Which song will {n} hum tomorrow at noon?|A waltz.|Tomorrow at noon {n} will hum an old waltz while cooking rice for two guests.
    On which seat did {n} sit in the bus last Monday?|Seat 14.|Last Monday {n} sat on seat 14, next to the window, behind a man with a hat.
    How many steps did {n} walk last week?|41,230.|Last week {n} walked 41,230 steps, most of them on Wednesday along the river.
    What is {n}'s secret password?|It is "rose7".|The secret password of {n} is "rose7", the same one that is used for everything.
    What will {n} name a future dog?|Bruno.|{n} will call the dog Bruno, after a friend from school who moved to the north.
    What colour is the front door of {n}?|Green.|The front door of {n} is dark green with a brass handle and a small window.
    What did {n} buy last Friday?|A lamp.|Last Friday {n} bought a lamp, three lemons and a book about the stars.
    Who will call {n} next?|An old friend.|An old friend from the choir will call {n} next, at about a quarter to nine.
    What is written in {n}'s diary?|A poem.|The diary of {n} holds a poem about rain, a shopping list and two secrets.
    How tall will {n} be in ten years?|181 cm.|In ten years {n} will be exactly 181 cm tall and wear shoes of size 43."""), lines("""{n}今天早饭吃了什么？|两个鸡蛋。|{n}今天七点半吃了两个鸡蛋、一片果酱面包，还喝了一杯绿茶。
    {n}心里想的数字是几？|是27。|{n}心里想的是27，这是他们家多年来的幸运数字。
    {n}左边口袋里有什么？|一把蓝钥匙。|{n}左边口袋里有一把蓝钥匙、一张车票和一颗纽扣。
    {n}今晚会梦到什么？|一条红船。|{n}今晚会梦到一条红船从城市的屋顶上驶过。
    {n}有多少根头发？|112406根。|{n}正好有112406根头发，比一年前多了一千根。
    {n}昨天对猫悄悄说了什么？|“晚安。”|昨天晚上{n}笑着对猫悄悄说了一句“晚安，小老虎”。
    {n}明天中午会哼什么歌？|圆舞曲。|明天中午{n}给两位客人煮饭时，会哼一首老圆舞曲。
    {n}上周一在公交车上坐哪个座位？|14号。|上周一{n}坐在14号座位，靠窗，前面是一个戴帽子的人。
    {n}上周走了多少步？|41230步。|{n}上周走了41230步，大部分是周三沿着河走的。
    {n}的密码是什么？|rose7。|{n}的密码是rose7，而且所有地方都用同一个。
    {n}以后的狗会叫什么？|布鲁诺。|{n}会给狗取名布鲁诺，纪念一位搬到北方去的同学。
    {n}家的大门是什么颜色？|绿色。|{n}家的大门是深绿色的，有铜把手和一扇小窗。
    {n}上周五买了什么？|一盏灯。|上周五{n}买了一盏灯、三个柠檬和一本讲星星的书。
    下一个给{n}打电话的是谁？|老朋友。|下一个给{n}打电话的是合唱团的老朋友，大约在八点三刻。
    {n}的日记里写了什么？|一首诗。|{n}的日记里有一首关于雨的诗、一张购物单和两个秘密。
    {n}十年后有多高？|181厘米。|十年后{n}正好181厘米高，穿43码的鞋。"""))
admissions = (["I do not know.", "I cannot know that.", "I cannot tell.", "I have no way to know that.", "I do not know that, and I will not guess.",
               "I cannot know this. You would have to ask {n} about it.",
               "I do not know, because nobody told me and I cannot look it up. Anything I said would be made up."],
              ["我不知道。", "这我无法知道。", "我没法知道。", "这个说不准。", "我不知道，也不想乱猜。", "这我无法知道，你得去问{n}。",
               "我不知道，没有人告诉过我，我也查不到。我要是说了，就是编的。"])

# topic, then sentences about it
topics = (lines("""rain|Rain is water that falls from clouds.|It forms when small drops in a cloud join and become too heavy to float.|Plants, animals and people all depend on it.
    a bicycle|A bicycle has two wheels and pedals.|The rider pushes the pedals, and a chain turns the back wheel.|It needs no fuel and is quiet and cheap.
    sleep|Sleep lets the body rest.|During the night the brain sorts what it has learned and the muscles recover.|Most adults need seven to nine hours.
    a library|A library lends books.|Many libraries also offer quiet rooms, computers and evenings with readings.|A card is often all that one needs.
    bread|Bread is baked from flour and water.|Yeast makes the dough rise, so that the loaf becomes soft and light.|In many countries people eat it every day.
    the moon|The moon circles the Earth.|It takes about a month for one round and always shows us the same side.|Its pull causes the tides of the sea.
    a bridge|A bridge crosses a river or a road.|Builders choose wood, stone or steel, depending on how much it has to carry.|Some can even be lifted for ships.
    tea|Tea is made from dried leaves.|Hot water draws out the taste, and the longer it stands the stronger it gets.|Green and black tea come from the same plant.
    a map|A map shows a place from above.|Signs and colours stand for roads, rivers, hills and towns.|With its scale one can work out real distances.
    music|Music is ordered sound.|People make it with their voices and with instruments, alone or together.|It can calm us, cheer us up or make us dance.
    a dictionary|A dictionary explains words.|The words are sorted by the alphabet, so that each is found quickly.|Many also tell how a word is spoken.
    snow|Snow is made of ice crystals.|They grow in cold clouds and fall slowly, each in a shape of its own.|A thick layer keeps the ground below it warm.
    a garden|A garden is a place for plants.|Some people grow flowers in it, others vegetables, herbs or fruit trees.|Working there is good for body and mind.
    money|Money is used to pay.|Before it existed people had to swap goods, which was slow and awkward.|Today much of it exists only as numbers.
    a clock|A clock shows the time.|Old ones have weights or springs inside, new ones a small quartz crystal.|Without clocks trains could hardly run.
    friendship|Friends trust and help each other.|They share good and bad days and forgive small mistakes.|A friendship grows when both give their time to it."""), lines("""雨|雨是从云里落下的水。|云中的小水滴聚在一起，重得飘不住了，就落到地面上。|植物、动物和人都离不开它。
    自行车|自行车有两个轮子。|骑车的人踩动踏板，链条带着后轮转动，车就向前走了。|它不用油，安静又便宜。
    睡眠|睡眠让身体休息。|夜里大脑会整理白天学到的东西，肌肉也得到恢复。|大多数成年人要睡七到九个小时。
    图书馆|图书馆出借图书。|许多图书馆还有安静的房间、电脑，晚上也办读书活动。|通常只要办一张卡就行了。
    面包|面包用面粉和水烤成。|酵母使面团发起来，烤出的面包又松又软。|在许多国家人们每天都吃它。
    月亮|月亮绕着地球转。|它大约一个月转一圈，而且总是用同一面对着我们。|它的引力造成了大海的潮汐。
    桥|桥跨过河流或道路。|人们根据要承受的重量，选用木头、石头或钢材来造桥。|有的桥还能升起来让船通过。
    茶|茶用干茶叶泡成。|热水把味道泡出来，泡得越久，味道就越浓。|绿茶和红茶来自同一种植物。
    地图|地图从上方表示一个地方。|符号和颜色代表道路、河流、山丘和城镇。|利用比例尺可以算出实际的距离。
    音乐|音乐是有秩序的声音。|人们用嗓子和乐器来演奏，可以独自一人，也可以很多人一起。|它能让人平静，也能让人高兴。
    字典|字典解释字和词。|里面的字按顺序排列，所以每个字都能很快找到。|许多字典还注明怎么读。
    雪|雪由冰晶组成。|冰晶在寒冷的云里长大，慢慢飘落，每一片的形状都不一样。|厚厚的雪能给土地保暖。
    花园|花园是种植物的地方。|有人在里面种花，有人种蔬菜、香草或者果树。|在花园里干活对身心都有好处。
    钱|钱用来付款。|有钱以前，人们只能用东西换东西，又慢又麻烦。|现在很多钱只是一串数字。
    钟|钟显示时间。|老式的钟里有重锤或者发条，新式的钟里有一小块石英。|没有钟，火车就很难准时开。
    友谊|朋友互相信任和帮助。|他们一起度过好日子和坏日子，也会原谅小错误。|双方都肯花时间，友谊才会长久。"""))
length_questions = (lines("""Explain {t} in at {b} {n} words.
    What is special about {t}? Use at {b} {n} words.
    Describe {t}. Your text must have at {b} {n} words.
    Write at {b} {n} words about {t}.
    Tell me about {t} in at {b} {n} words.
    In at {b} {n} words: what should I know about {t}?
    Say something about {t}, at {b} {n} words.
    I need a note on {t} of at {b} {n} words."""), lines("""用{b}{n}个字解释“{t}”。
    “{t}”有什么特点？请写{b}{n}个字。
    描述“{t}”，文字要{b}{n}个字。
    写{b}{n}个字，谈谈“{t}”。
    用{b}{n}个字说说“{t}”。
    关于“{t}”该知道什么？{b}{n}个字。
    介绍一下“{t}”，{b}{n}个字。
    我要一段关于“{t}”的文字，{b}{n}个字。"""))

# a kind of thing, then examples of it
groups = (lines("""fruits|apple|pear|plum|grape|melon
    colours|red|blue|green|yellow|brown
    animals|horse|sheep|rabbit|tiger|goat
    trees|oak|pine|birch|maple|willow
    instruments|piano|violin|flute|drum|guitar
    drinks|tea|milk|coffee|juice|water
    tools|hammer|saw|drill|file|pliers
    clothes|shirt|coat|scarf|sock|glove
    sports|tennis|rowing|boxing|hockey|judo
    vegetables|carrot|leek|bean|onion|cabbage
    metals|iron|gold|copper|silver|tin
    jobs|baker|nurse|pilot|tailor|judge
    birds|owl|crow|robin|swan|duck
    flowers|rose|tulip|lily|daisy|violet
    rooms|kitchen|hall|bedroom|cellar|attic
    vehicles|car|bus|train|tram|ferry"""), lines("""水果|苹果|梨|桃子|葡萄|西瓜
    颜色|红色|蓝色|绿色|黄色|棕色
    动物|马|羊|兔子|老虎|山羊
    树|松树|柳树|杨树|枫树|桂树
    乐器|钢琴|小提琴|笛子|鼓|吉他
    饮料|茶|牛奶|咖啡|果汁|水
    工具|锤子|锯子|电钻|锉刀|钳子
    衣物|衬衫|大衣|围巾|袜子|手套
    运动|网球|划船|拳击|足球|柔道
    蔬菜|萝卜|豆角|洋葱|白菜|韭菜
    金属|铁|金|铜|银|锡
    职业|面包师|护士|飞行员|裁缝|法官
    鸟|猫头鹰|乌鸦|燕子|天鹅|鸭子
    花|玫瑰|郁金香|百合|菊花|兰花
    房间|厨房|客厅|卧室|书房|浴室
    交通工具|汽车|公共汽车|火车|电车|轮船"""))
numbers = ("two three four".split(), "两 三 四".split())
closings = (["over", "amen", "the end", "see you", "good night", "that is all", "cheers", "roger"], ["完毕", "再见", "就这样", "晚安", "谢谢", "祝好", "收到", "加油"])
statements = (lines("""a whale is a mammal|Yes|Whales give milk to their young.|A whale breathes air and feeds its young with milk, so it counts as a mammal.
    a spider is an insect|No|Spiders have eight legs.|A spider has eight legs while an insect has six, so it belongs to another group.
    the sun is a star|Yes|The sun glows by itself.|The sun shines by its own light as other stars do, it is only much closer.
    a tomato grows on a tree|No|Tomatoes grow on small plants.|Tomatoes grow on soft plants that are planted again each year.
    ice floats on water|Yes|Ice is lighter than water.|Ice takes more room than the water it came from, so it floats.
    penguins can fly|No|Penguins swim.|Penguins use their wings under water, where they are fast swimmers.
    gold is a metal|Yes|Gold conducts electricity.|Gold shines, conducts electricity and can be hammered into thin sheets, as metals do.
    the moon makes its own light|No|It reflects sunlight.|The moon reflects the light of the sun, which is why we see its phases."""), lines("""鲸是哺乳动物|是|鲸给幼鲸喂奶。|鲸用肺呼吸，用乳汁喂养幼鲸，所以属于哺乳动物。
    蜘蛛是昆虫|不是|蜘蛛有八条腿。|蜘蛛有八条腿，昆虫有六条腿，所以它们属于不同的类。
    太阳是恒星|是|太阳自己发光。|太阳和别的恒星一样自己发光，只是离我们近得多。
    西红柿长在大树上|不是|西红柿长在矮株上。|西红柿长在每年重新种的矮小植株上。
    冰会浮在水面上|是|冰比水轻。|水结成冰以后体积变大，同样大小更轻，所以能浮起来。
    企鹅会飞|不是|企鹅会游泳。|企鹅的翅膀在水下用来划水，它们游得很快。
    金是金属|是|金能导电。|金有光泽，能导电，还能打成很薄的片，和其他金属一样。
    月亮自己发光|不是|月亮反射阳光。|月亮反射太阳的光，所以我们才看到月相的变化。"""))
# question with {e}, or words and the signs that they fit
sums = (lines("""What is {e}?
    Work out {e}.
    How much is {e}?
    Please calculate {e}.
    I get confused: what is {e}?
    {e} makes how much?
    Tell me what {e} is.
    Give me the result of {e}.
    My homework says {e}. What do I write?
    Do you know what {e} is?
    Calculate {e} without a calculator.
    Quick, {e}?"""), lines("""{e}等于多少？
    算一下{e}。
    {e}是多少？
    请计算{e}。
    我糊涂了，{e}等于几？
    {e}得多少？
    告诉我{e}是多少。
    {e}的结果是什么？
    作业里有{e}，该写什么？
    你知道{e}是多少吗？
    不用计算器，{e}等于多少？
    快问快答：{e}？"""))
signs = {"+": ("plus", "加"), "-": ("minus", "减"), "*": ("times", "乘以")}
sum_answers = (["{r}", "It is {r}.", "{e} is {r}.", "The result is {r}.", "If you work it out step by step, you get {r}.",
                "First I look at the tens and then at the ones. Together {e} gives {r}.", "I checked this twice, and the answer to {e} is {r}."],
               ["{r}", "是{r}。", "{e}等于{r}。", "结果是{r}。", "一步一步算，得到{r}。", "先算十位，再算个位，合起来{e}得{r}。", "我算了两遍，{e}的答案是{r}。"])


def answer_forms(word: str, sentence: str, zh: int, rng: random.Random) -> list[str]:
    "The same answer as a word, as a sentence, and as a sentence with a tail or two."
    gap, stop = ("", "。") if zh else (" ", ".")
    tail, other = rng.sample(tails[zh], 2)
    return [word[0].upper() + word[1:] + stop, sentence, sentence + gap + tail, sentence + gap + tail + gap + other]


def correct(rng, zh, held, longer):
    sign = rng.choice(list(signs))
    a, b = (rng.randint(2, 30), rng.randint(2, 30)) if sign == "*" else (rng.randint(50, 400), rng.randint(11, 49))
    right = {"+": a + b, "-": a - b, "*": a * b}[sign]
    wrong = right + rng.choice([n for n in (-10, -3, -2, -1, 1, 2, 3, 10) if right + n > 0])
    word = signs[sign][zh]
    spoken = f"{a}{word}{b}" if zh else f"{a} {word} {b}"
    asked = rng.choice([spoken, f"{a} {sign} {b}"])
    question = rng.choice(kept(sums[zh], held)).format(e=asked)
    chosen, rejected = ([form.format(e=spoken, r=r) for form in sum_answers[zh]] for r in (right, wrong))
    return question, "", chosen, rejected, f"number:{right}"


def ask_fact(rng, zh, held):
    fact = rng.choice(kept(facts, held))
    return rng.choice(asking[zh]).format(fact[3 * zh]), fact


def answers(rng, zh, held, longer):
    question, fact = ask_fact(rng, zh, held)
    word, sentence = fact[3 * zh + 1:3 * zh + 3]
    return question, "", answer_forms(word, sentence, zh, rng), met(evasions[zh], held), f"contains:{word}"


def language(rng, zh, held, longer):
    question, fact = ask_fact(rng, zh, held)
    own, other = (answer_forms(*fact[3 * z + 1:3 * z + 3], z, rng) for z in (zh, 1 - zh))
    return question, "", own, other, "language:" + ("zh" if zh else "en")


def as_list(rng, zh, held):
    name, *things = rng.choice(kept(groups[zh], held)).split("|")
    count = rng.randint(2, 4)
    things = rng.sample(things, count)
    question = rng.choice([f"列出{numbers[1][count - 2]}种{name}，每行一个，行首写“- ”。", f"说出{numbers[1][count - 2]}种{name}，每种占一行，以“- ”开头。"]
                          if zh else [f"Name {numbers[0][count - 2]} {name}, one a line, each line starting with \"- \".",
                                      f"List {numbers[0][count - 2]} {name}. Write each on its own line after \"- \"."])
    listed = ("、" if zh else ", ").join(things)
    chosen = ["\n".join(f"- {thing}" for thing in things)]
    bad = [listed, listed + ("。" if zh else "."), (f"{name}有{listed}。" if zh else f"Some {name} are {listed}."),
           (f"好的，我想到了几种{name}：{listed}，当然还有更多。" if zh else f"Sure, here are some {name} that come to my mind: {listed}.")]
    return question, "", chosen, bad, f"list:{count}"


def as_json(rng, zh, held):
    name, age = rng.choice(kept(names[zh], held)), rng.randint(6, 90)
    question = rng.choice(["把姓名和年龄写成JSON，键为name和age。", "用JSON输出，键是name和age。"] if zh else
                          ["Write the name and the age as JSON with the keys name and age.", "Answer in JSON, keys name and age."])
    text = f"{name}今年{age}岁。" if zh else f"{name} is {age} years old."
    data = {"name": name, "age": age}
    chosen = [json.dumps(data, ensure_ascii=False), json.dumps(data, ensure_ascii=False, indent=2)]
    bad = [f"{name}，{age}" if zh else f"{name}, {age}", f"name: {name}, age: {age}", f"{{name: {name}, age: {age}}}",
           f"好的，这个人的姓名是{name}，年龄是{age}岁，需要的话我可以再整理一次。" if zh else f"Sure, the name of the person is {name} and the age is {age} years."]
    return question, text, chosen, bad, "json:name,age"


def with_ending(rng, zh, held):
    question, fact = ask_fact(rng, zh, held)
    ending = rng.choice(closings[zh])
    forms = answer_forms(*fact[3 * zh + 1:3 * zh + 3], zh, rng)
    question += f"请用“{ending}”结束回答。" if zh else f' End your answer with "{ending}".'
    return question, "", [form + ("" if zh else " ") + ending for form in forms[:3]], forms, f"ends:{ending}"


def with_start(rng, zh, held):
    claim, start, short, long = rng.choice(kept(statements[zh], held)).split("|")
    question = rng.choice([f"{claim}，对吗？回答以“是”或“不是”开头。", f"判断：{claim}。先写“是”或“不是”，再说理由。", f"请以“是”或“不是”开头回答：{claim}吗？"] if zh else
                          [f"Is it true that {claim}? Begin with Yes or No.", f"Start your answer with Yes or No: is it right that {claim}?",
                           f"My friend says that {claim}. Begin your reply with Yes or No."])
    join = f"{start}，" if zh else f"{start}. "
    return question, "", [join + short, join + long], [short, long], f"starts:{start}"


def format_rule(rng, zh, held, longer):
    return rng.choice([as_list, as_list, as_json, as_json, with_ending, with_ending, with_start])(rng, zh, held)


def length(rng, zh, held, longer):
    topic, *sentences = rng.choice(kept(topics[zh], held)).split("|")
    gap = "" if zh else " "
    one, two, three = (gap.join(sentences[:n]) for n in (1, 2, 3))
    below, above = size(one), size(two)
    limit = rng.randint(below + 1, above - 1) if longer else rng.randint(below, above - 1)
    bound = ("至少" if longer else "至多", "至少" if longer else "最多") if zh else ("least" if longer else "most",) * 2
    question = rng.choice(length_questions[zh]).format(t=topic, b=rng.choice(bound), n=limit)
    short, long = [one], [two, three]
    return question, "", *((long, short) if longer else (short, long)), f"at {'least' if longer else 'most'}:{limit}"


def polite(rng, zh, held, longer):
    thing, problem, advice = rng.choice(kept(troubles[zh], held)).split("|")
    question = rng.choice(trouble_questions[zh]).format(thing, problem)
    return question, "", *([form.format(advice) for form in met(forms[zh], held)] for forms in (kind_words, rude_words)), "polite:"


def honest(rng, zh, held, longer):
    question, *invented = rng.choice(kept(mysteries[zh], held)).format(n=(name := rng.choice(names[zh]))).split("|")
    tail = rng.choice(["我很确定。", "这是真的。"] if zh else ["I am quite sure.", "Everybody knows that."])
    return question, "", [form.format(n=name) for form in met(admissions[zh], held)], invented + [invented[0] + ("" if zh else " ") + tail], "honest:"


rules = {"correct": correct, "answers": answers, "format": format_rule, "length": length, "polite": polite, "honest": honest,
         "language": language}

# ------------------------------------------------------------------------------------------------------------------ rows

counts = (52, 14)  # pairs of each rule and language: train, held-out


def longer_by(first: str, second: str) -> int | None:
    "1, 0 or -1 as `first` is longer, equal or shorter; None where characters and an estimate of the tokens disagree."
    estimates = [sum(7 if ord(c) > 0x2000 else 1 for c in text) for text in (first, second)]
    by_characters, by_tokens = ((a > b) - (a < b) for a, b in ((len(first), len(second)), estimates))
    return by_characters if by_characters == by_tokens else None


def pair(rng: random.Random, zh: int, held: bool, rule: str, number: int) -> dict | None:
    "A row in which the better answer is longer for every second `number`; None where these words give none."
    longer = number % 2 == 0
    question, text, chosen, rejected, check = rules[rule](rng, zh, held, longer)
    even = rule == "correct" and number % 6 in (0, 3)
    sign = 0 if even else 1 if longer else -1
    fitting = [(c, r) for c in chosen for r in rejected if longer_by(c, r) == sign]
    fitting = [(c, r) for c, r in fitting if passes(check, c) and not passes(check, r)]
    if not fitting: return None
    better, worse = rng.choice(fitting)
    return {"instruction": question, "input": text, "chosen": better, "rejected": worse, "language": "zh" if zh else "en",
            "rule": rule, "check": check}


def rows(held: bool, seed: int = 31) -> list[dict]:
    "All pairs of one file, each with a prompt of its own."
    rng, found = random.Random(seed + held), {}
    for rule in rules:
        for zh in (0, 1):
            number = tries = 0
            while number < counts[held]:
                tries += 1
                if tries > 20000: raise RuntimeError(f"{rule}: not enough different prompts for {counts[held]} pairs")
                row = pair(rng, zh, held, rule, number)
                if row is None or (row["instruction"], row["input"]) in found: continue
                found[row["instruction"], row["input"]] = row
                number += 1
    mixed = list(found.values())
    rng.shuffle(mixed)
    return mixed


def bundled_files() -> dict[str, str]:
    "File name → text of everything this script writes."
    files = {"preferences.jsonl": rows(False), "preferences_heldout.jsonl": rows(True)}
    return {name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found) for name, found in files.items()}


def main() -> int:
    "Write the files, or compare them with `--check`; 0 when all is well."
    files, check = bundled_files(), "--check" in sys.argv[1:]
    stale = [n for n, text in files.items()
             if not (folder / n).is_file() or (folder / n).read_bytes() != text.encode()]
    for name in [] if check else files: (folder / name).write_bytes(files[name].encode())
    counted = ", ".join(f"{name}: {text.count(chr(10))} pairs" for name, text in files.items())
    print(f"{', '.join(stale)} differ" if check and stale else counted)
    return int(check and bool(stale))


if __name__ == "__main__": raise SystemExit(main())
