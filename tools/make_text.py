"""Write data/text_en.txt and data/text_zh.txt: small plain texts, paragraphs separated by a blank line.

    python tools/make_text.py            # writes both files
    python tools/make_text.py --check    # exits 1 if the files in the repository differ

A part of each text is prose that was written for this project (sources/text_en.txt and sources/text_zh.txt, beside this
script). The rest is generated: stories, descriptions, instructions, sums in words and true facts about numbers, the
calendar and shapes. `[a|b]` is a choice and `<name>` a line of the section `name`; facts are computed, never drawn.
"""
from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

here = Path(__file__).resolve().parent
folder = here.parent / "data"
sizes = {"en": 160_000, "zh": 160_000}  # bytes of each file, at the most
span = {"en": 40, "zh": 13}             # characters of a piece that two paragraphs should seldom share

english_text = """
@tale
<start> <want> <trouble> <try> <help> <end>
<start> <trouble> <talk> <help> <end>
<weather> <start> <want> <try> <trouble> <talk> <end>
<start> <want> <talk> <trouble> <help> <weather_end>
<weather> <trouble> <start2> <try> <help> <end>
@start
[Once|Long ago|Many years ago|In the year of the big flood|Before the bridge was built], {who} [lived|kept a small shop|had a room|looked after the gate] <where>.
{who} was {job} <where>, and [people came from far away|nobody in the street was busier|the work was never quite done|most people only knew the sound of the door].
There was {job} called {who} who [worked|lived|slept and ate] <where> with {pet}.
[Every morning|Each evening|On market days|On the first day of every month] {who}, {job}, walked <where2> with {pet}.
In the house <where> {who} kept {pet} and {thing2}, and [cared for both|was proud of neither|talked to each of them on Sundays|could not have said which was older].
The people <where> [said|used to say|will still tell you] that {who} could [mend anything with wood and glue|hear rain an hour before it fell|name every bird by its step|find a lost button in tall grass].
@start2
{who}, {job}, [saw it first|was called at once|was the only one awake|did not believe it until noon].
[They sent for|Somebody fetched|The children ran to] {who}, who was {job} <where>.
Of all people it was {who}, {job}, who [knew what to do|was not surprised|laughed].
Only {who}, {job}, [knew what to do|stayed calm|laughed out loud].
@where
at the [edge|end|quiet side|north end] of [a village|the harbour|the old town|a long valley]
[behind|beside|above|not far from] the [mill|station|school|bakery|church|market hall|ferry]
where the [road|railway|path to the hills|old tramline] [turns|begins to climb|leaves the houses]
where the river [turns|runs between two walls|widens]
[under|between] the [chestnut|walnut|plum|lime] trees [near the well|by the wall|past the last house]
on the [second|third|top] floor [over the bank|of a narrow house|of the house with the blue door]
@where2
[down to|all the way to|twice round|slowly past|up to] the [river|lake|harbour|old tower|post office|orchard|railway bridge|windmill]
[along|across] the [canal|beach|square|fields|ridge|dry river bed]
@want
What {he} wanted [most|more than anything|above all|that year] was {thing}, [but such things were dear|and {he} had begun to save for it|though {he} never said so aloud|and everybody knew it].
{he2} had [one wish|a plan|a single worry|a secret]: to [build a boat|see the sea|learn to read music|find the spring of the river|grow a blue rose|write down every story {he} knew].
[For a year|Since the spring|As long as anyone remembered] {he} had been looking for {thing} [in every market|without any luck|that did not squeak|that would last].
{he2} hoped to [finish|begin|give up the old trade|be ready] before [the first snow|the swallows left|the harvest|the new moon|the fair].
[On the shelf|Under the bed|In a box by the stove] {he} kept [a map with one corner missing|forty-one letters|a jar of coins|a list of questions], and [that was the whole plan|nobody was allowed to touch it|every evening it grew a little].
@trouble
[Then|One day|In the middle of April|On the shortest day|Without any warning] <bad>.
[It began|The trouble began|It all started] on a [Monday|Wednesday|Friday|Sunday], when <bad>.
[Nobody noticed|It was still dark|Breakfast was on the table|The guests had just sat down] when <bad>.
[First|In one night] <bad>, and [before noon|then, as if that were not enough,|a day later] <bad>.
@bad
the [pump|oven|clock|mill wheel|ferry] [stopped|began to groan|would not start|broke in two]
the [wind|storm|flood] [took the roof of the shed|carried away the fence|knocked down the old pear tree|left a boat in the garden]
[somebody lost|a goat ate|a crow stole|the baby hid] [the key|the list|the only good pen|the letter|the tickets|a left shoe]
[a stranger|an old friend|a man in a green coat|a girl with a drum] [knocked|asked for the way|wanted to buy the house|sat down on the steps and waited]
the [well ran dry|bees moved out|lamp went out|bread did not rise|bridge was closed]
@try
[At first|To begin with|For an hour] {he} tried [a hammer|patience|shouting|a longer rope|the advice in an old book], which [made things worse|helped a little|amused the neighbours|did nothing at all].
{he2} [measured everything twice|made three drawings|counted the steps|asked the oldest man in the street|slept on it], and [still it would not work|then did the opposite|found a mistake in the measure itself|began again].
[The first attempt|The second try|Everything {he} made that week] [fell over|sank|was too short by a hand|came out green|looked fine and would not move].
{he2} [wrote to|waited for|borrowed a ladder from|went to see] {other}, but [the answer came too late|nobody was at home|the door was locked|the reply was a single word].
@talk
"[Why not ask|Have you asked|Did anybody think of asking|Could we ask] {other}?" said [a voice behind the hedge|the youngest child|the woman from the dairy|the postman]. "[That will never do|It costs nothing|I was coming to that|In this weather?]," {he} [answered|said|muttered|replied with a smile].
"[You are holding it|You have read it|You looked at it|They built it] upside down," [said|whispered|called|explained] {other}, and [everybody fell silent|it was true|{he} turned it round|for once nobody argued].
"[How long will it take|How far is it|How much do you need|How many did you count]?" asked {other}. "[Less than you think|More than yesterday|As much as we have|I stopped counting]," {he} said.
"[I know|I have heard of|My aunt had|I once saw] [a trick|a simpler way|something like this|an answer to that]," said {other}, [who had listened from the stairs|putting down the basket|between two bites of an apple|and took off a glove].
@help
[In the end|At last|Late that evening|After supper] {other} came with {thing} and [showed how it was done|put it on the table without a word|asked for a cup of tea|set to work].
It was {pet} that [found the answer|solved it|gave the first hint|made everyone look up]: [it sat down exactly where the pipe had burst|it would not leave one corner of the yard|it had been sleeping on the missing page|it began to dig].
[Together|Step by step|With the help of {other}|Taking turns] they [lifted|turned|emptied|oiled|took apart] the [wheel|box|boat|stove|table], and [there it was|a coin rolled out|it moved|the rest was easy].
{other} [lent|brought|gave|sold] {him} {thing}, [on one condition|for a basket of plums|and refused any money|with a warning], and [that was enough|the work went on|from that hour things improved|by the next day it was done].
@end
[Since then|From that day|Ever after|Now] [the two of them eat together on Fridays|there is a mark on the wall to remember it by|the door is never locked|children ask for the story before bed|nobody there throws away string].
[And that is why|This is why|So, to this day,] [the weathercock points south|the bench has five legs|the bell rings twice at noon|the shop sells nails by weight and stories for nothing|the path makes a bend where there is nothing to see].
{who} [never spoke of it|told it differently every time|laughed about it for years|kept {thing} as a souvenir], and [perhaps that was wise|we are still not sure how it happened|the rest is known to everyone|the cat could tell you more].
[It was not much|It was a small thing|Nobody put up a statue], but [it held|it was enough|the winter was warmer for it|people remembered].
@weather
The [morning|night|afternoon|whole week] was [cold and clear|grey|warm for the season|so still that you could hear the reeds|full of wind], and [the gulls walked instead of flying|smoke stood straight above the roofs|every window was open|the road was empty].
[Snow|Rain|Fog|Dust] had [fallen|come down|hung over the fields|covered the steps] since [Tuesday|dawn|the day before|the last train].
@weather_end
[By evening|An hour later|When they looked up] the [rain had stopped|fog was gone|wind had turned|stars were out], and [nobody was in a hurry to go home|there was soup for everyone|the lamps were lit one after another|the matter was settled].
@howto
To [clean|look after|restore] {tool}, [first|begin by] [wiping|brushing|shaking] off the [dust|dry earth|loose dirt] with [a soft cloth|an old brush|a dry rag]. [Then|Next|After that] [rub in|put on|work in] a [drop|spoonful|thin film] of [oil|wax|soap and warm water], [wait|leave it] for [ten minutes|half an hour|as long as a cup of tea takes], and [wipe away|remove] what is left. [Keep it|Store it|Hang it] in a [dry|cool|dark] place, [away from the stove|off the floor|where children cannot reach it]. [Do this|Repeat it] [once a month|before winter|whenever it looks dull], and it will [last for years|outlive you|serve you well].
[Growing|Raising] {plant} is [easier than it looks|a matter of patience|a good task for a child]. [Sow|Put] the seeds [a finger deep|just under the surface|two hands apart] in [March|April|early May], when the [soil is no longer cold|last frost is over]. [Water|Sprinkle] them [in the evening|every second day|gently], but [do not drown them|let the surface dry in between|never at noon]. When the [plants|shoots] have [two pairs of|four] leaves, [pull out the weak ones|give them more room|tie them to a stick]. [Slugs like them too|Birds will visit|Weeds come faster], so [look at them every day|put ash around the bed|be early]. [In July|By late summer|After ten weeks] you can [begin to pick|taste the first ones|share with the neighbours].
If you want to [cook|make] {dish}, [start with|you need] [a large pot|a heavy pan|clean hands and a sharp knife]. [Chop|Slice|Cut up] {food}, and [heat|warm] a little [oil|butter] until [it smells nutty|a crumb sizzles in it]. [Add everything|Put the pieces in] and [stir|turn them] for [three|five|eight] minutes; [then|now] pour on [hot water|broth|a cup of milk] and let it [simmer|bubble gently] [with the lid on|without a lid|on a low flame]. [Taste it|Try a spoonful] before you [add salt|call the others]. It is [ready|done] when [a fork goes in easily|the spoon leaves a trace|the kitchen smells of Sunday]. [Serve|Eat] it with [bread|rice|whatever is left from yesterday].
[Before|When] you [travel to|set out for|visit] {town}, [make|write] a list with {n1} [lines|entries] and no more. [Put|Pack] the [heavy things|shoes|books] at the bottom, [roll|fold] the [shirts|coats] [loosely|around something soft], and keep {thing} [in your pocket|on top|where you can find it in the dark]. [Tell|Let] somebody [know|hear] when you [will be back|expect to arrive]. If you [miss the train|lose the way|forget the ticket], [sit down first|do not run|drink some water], because [there is always another|most mistakes are made in a hurry|a calm head is worth two maps]. [And|Finally,] leave a little room [in the bag|at the top] for [what you will bring back|the way home].
[To repair|To mend|If you must fix] {tool}, [turn it over|put it on a table|look at it in good light] and [find out|see] [what moves and what should not|where it was joined|which part is worn]. [Take a photograph|Make a sketch] before you [loosen|remove] the first screw. [Lay|Put] the parts [in a row|in a saucer] in the order in which they [came out|were taken off]. [Replace|Clean|Glue] only [the broken one|what is worn], [wait|be patient] until [it is dry|the glue has set], and put [everything|the rest] back [in the opposite order|from the last to the first]. If [a part|one screw] is left over, [do it again|do not tell anybody yet|start from the sketch].
@view
From the [window|roof|bench|terrace] in {town} you [can see|look down on|count] {n1} [chimneys|boats|steps|lamps], [a row of|a few|some old] [poplars|sheds|cranes|balconies], and [far away|behind them|in clear weather] the [hills|sea|towers of the next town|line of the railway]. In the [morning|early hours] [bakers carry out their boards|the first tram climbs the hill|fishermen mend their nets|somebody plays scales]; at [noon|midday] [the shutters close|the square smells of soup|dogs lie down in the shade|school is over]. [Then|Towards evening] the [light turns yellow|swifts come out|shopkeepers sit on their steps|river grows loud], and [{who} waters the plants|{who} tunes an old radio|{who} calls the children in]. [It is not a famous view|No guidebook mentions it|Painters never come], and [that is its charm|nobody minds|it belongs to those who live there].
{tool2} [lay|stood|had been left] on the table of {who}, {job}. It was [older than the house|heavier than it looked|made of two kinds of wood|the colour of strong tea], with [a dent on one side|a name scratched under it|a handle that had been replaced twice|a smell of rope and smoke]. [Somebody had|A previous owner had|Time had] [polished it smooth|mended it with wire|painted a small star on it|left fingerprints in the varnish]. [When you picked it up|If you held it to your ear|Turned to the light], it [rattled|showed a fine crack|sat in the hand like a stone from a river|seemed to remember its work]. [Nobody would have bought it|A museum asked for it once|It was worth little], but {who} [would not part with it|used it every day|lent it only to {other}].
[Dear {other}|My dear {other}], [thank you for|I was glad to get] [your letter|the parcel|the photographs|{thing}]. [Here|In {town}] it has been [raining|freezing|windy|unusually warm] since [your visit|the weekend|last {day}], and {pet} [refuses to go out|sleeps on the stove|sends greetings]. {who} has [started|given up|finished] [painting the kitchen|learning the flute|the long blue scarf|repairing the boat], so we [eat in the hall|keep the windows shut|have music with our soup|need more wool]. I [counted|harvested|gave away] {n1} [pears|jars of jam|pumpkins|eggs] [on {day}|this week|yesterday]. [Come again soon|Write when you can|Do not forget the recipe], and [bring|do not leave behind] your [umbrella|boots|good temper]. Yours, {who2}.
"""
english_words = {
    "name": "Anna Boris Clara David Elena Felix Greta Hugo Ida Jonas Karin Leo Mira Nils Olga Paul Rosa Stefan Tilda Victor Wanda Yusuf Zora Amal Bruno Dina".split(),
    "job": ["a baker", "a clockmaker", "a ferryman's cook", "a piano tuner", "a carpenter", "a beekeeper", "a teacher of sums", "a night nurse",
            "a gardener", "a weaver", "a sign painter", "a miller", "a tailor", "a librarian", "a lamp lighter", "a bridge keeper", "a potter"],
    "pet": ["an old dog", "a grey cat", "a speckled hen", "a donkey", "a tame crow", "a goose", "a one-eyed cat", "a very small horse", "a tortoise", "a lame duck"],
    "thing": ["a brass key", "a new rope", "a better lamp", "a pair of boots", "a copper kettle", "a folding ladder", "a silver whistle", "a good knife",
              "a map of the coast", "an iron stove", "a compass", "a blue notebook", "a violin string", "a jar of honey", "a magnifying glass", "a woollen blanket"],
    "tool": ["a garden spade", "a leather bag", "a bicycle chain", "a wooden chair", "a cast-iron pan", "a pair of scissors", "a pocket knife", "an old lantern",
             "a music box", "a watering can", "a straw hat", "a sewing machine", "a coffee mill", "a door lock", "a kite", "an umbrella"],
    "plant": ["beans", "radishes", "sunflowers", "lettuce", "tomatoes", "pumpkins", "parsley", "carrots", "peas", "onions", "beetroot", "marigolds"],
    "dish": ["vegetable soup", "a potato pan", "onion stew", "a pot of lentils", "pumpkin broth", "a winter goulash", "mushroom ragout", "bean stew", "leek soup"],
    "food": ["two onions and a carrot", "half a pumpkin", "four potatoes", "a handful of mushrooms", "three leeks", "a small cabbage", "a celery root and two apples",
             "some garlic and a pepper", "five tomatoes", "a bunch of chard"],
    "town": ["Ostwick", "Marlen", "Port Ebba", "Sankt Velt", "Linden Bay", "Upper Harrow", "Calder", "Novi Brod", "Tarnsee", "Willowmere", "Kestrel Point", "Ardmoor"],
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()}
chinese_text = """
@tale
<start><want><trouble><try><help><end>
<start><trouble><talk><help><end>
<weather><start><want><try><trouble><talk><end>
<start><want><talk><trouble><help><weather_end>
<weather><trouble><start2><try><help><end>
@start
[从前|很久以前|好多年前|发大水的那一年|桥还没有修好的时候]，{who}[住在|在|守着一间小屋，就在]<where>，[养着{pet}|靠手艺过日子|门前总是很热闹|一个人过得也自在]。
{who}是{job}，[铺子开在|家在|平日里就在]<where>，[远近的人都认得{he}|活儿从来做不完|整条街数他最忙|大多数人只听过那扇门的响声]。
<where>有一位{job}，名叫{who}，[身边总跟着{pet}|话不多，手很巧|每天天不亮就起来|最爱听人讲故事]。
[每天清早|每到傍晚|逢集的日子|每个月的头一天]，{job}{who}都要[带着{pet}|背着一个布包|提着一盏灯]<walk>。
<where>的人都说，{who}[用木头和胶水什么都能修好|能比别人早一个时辰听见雨声|听脚步就认得出是哪种鸟|在深草里也找得到一颗扣子]。
@start2
{job}{who}[头一个看见|当时就被请来了|是唯一醒着的人|直到中午还不肯相信]。
[大家赶紧去请|孩子们跑去叫|有人想起了]{who}，一位住在<where>的{job}。
[只有|偏偏是]{job}{who}[知道该怎么办|一点也不惊讶|听完就笑了]。
@where
[村口|码头边|老城尽头|一条长长的山谷里|渡口旁边]
[磨坊|车站|学校|面包房|集市|祠堂]的[后面|旁边|斜对面|不远处]
[河水|大路|铁路|上山的小路][拐弯|开始往高处走|离开人家]的地方
[栗子树|核桃树|李子树|老槐树][下面|和水井之间|围着的院子里]
[一栋窄窄的楼房|有蓝色木门的房子|钱庄楼上]的[二层|三层|顶楼]
@walk
[走到|慢慢走过|绕着|一直走到][河边|湖边|旧塔下|果园|风车旁|铁路桥头]，[看看水涨了没有|坐上一会儿再回来|跟每个人打招呼|数一数路过的船]
沿着[运河|沙滩|田埂|山脊|干了的河床]走[一个来回|半个钟头|到天色发亮]
@want
那一年{he}最想要的是{thing}，[只是这样的东西不便宜|已经为它攒了很久的钱|可是嘴上从来不说|这件事人人都知道]。
{he}心里有[一个愿望|一个打算|一件放不下的事|一个秘密]：[造一条船|去看一次海|学会看乐谱|找到这条河的源头|种出蓝色的玫瑰|把听过的故事都写下来]。
[整整一年|开春以来|从大家记事起]，{he}一直在找{thing}，[走遍了集市也没有找到|要不会吱呀响的那一种|要经得起用的那一种|可运气总是差一点]。
{he}希望赶在[第一场雪|燕子飞走|秋收|新月|庙会]之前[做完|动手|改行|准备好]。
[架子上|床底下|炉边的盒子里]放着[一张缺了角的地图|四十一封信|一罐硬币|一张写满问题的纸]，[全部的计划就是这些|谁也不许碰|每天晚上都会多一点]。
@trouble
[后来|有一天|四月中旬|冬至那天|谁也没有料到]，<bad>。
[事情|麻烦]是从[星期一|星期三|星期五|星期天]开始的，那天<bad>。
[谁也没有留意|天还没有亮|早饭刚端上桌|客人才坐下]，<bad>。
[先是|一夜之间]<bad>，[不到中午|好像这还不够|隔了一天]，<bad>。
@bad
[水泵|烤炉|大钟|水车|渡船][停了下来|发出呻吟一样的声音|怎么也发动不了|断成了两截]
[大风|暴雨|洪水][掀掉了棚子的顶|卷走了篱笆|吹倒了老梨树|把一条船留在了院子里]
[钥匙|名单|唯一一支好笔|那封信|车票|左脚的鞋][不见了|被山羊吃了|被乌鸦叼走了|让小娃娃藏了起来]
[一个陌生人|一位老朋友|一个穿绿外套的人|一个背着鼓的小姑娘][来敲门|来问路|说要买下这座房子|坐在台阶上等着]
[井水干了|蜜蜂搬走了|灯灭了|面团没有发起来|桥封了]
@try
[起初|一开始|头一个钟头]，{he}试了[锤子|耐心等待|大声喊|更长的绳子|一本旧书里的办法]，[结果更糟|稍微有一点用|邻居们都看笑了|什么用也没有]。
{he}[把每样东西量了两遍|画了三张图|数了数步子|去问街上最老的老人|睡了一觉再想]，[还是不行|然后反着做|发现原来是尺子错了|又从头来过]。
[第一回|第二次|那个星期做出来的东西][倒了|沉了|短了一掌|变成了绿色|看着很好，就是不动]。
{he}[写信给|去等|向别人打听|上门去找]{other}，可是[回信来得太晚|家里没有人|门上了锁|回答只有一个字]。
@talk
“[为什么不去问|你问过|我们可以问问|有没有人想到]{other}？”[篱笆后面有个声音说|最小的孩子说|送牛奶的大婶说|邮差说]。“[那怎么行|反正不花钱|我正要说呢|这种天气吗]？”{he}[回答|小声说|笑着说|嘀咕]。
“[你拿反了|你看反了|图纸放倒了|当初就装反了]。”{other}[说|轻声说|隔着街喊|解释道]。[大家都不出声了|果然是这样|{he}连忙转过来|这一回没有人争辩]。
“[要多久|有多远|要多少|数过几遍]？”{other}问。“[比你想的少|比昨天多一点|有多少算多少|早就不数了]。”{he}说。
“[我知道|我听说过|我姨妈有|我见过][一个窍门|更简单的办法|差不多的事]。”{other}说，[原来一直坐在楼梯上听|一边放下篮子|一边咬了一口苹果|一边摘下手套]。
@help
[最后|终于|那天夜里|晚饭以后]，{other}带着{thing}来了，[做给大家看|一句话也没说，放在桌上|先要了一杯茶|挽起袖子就干]。
[解开谜的|找到答案的|最先给出提示的]竟然是{pet}：[它偏偏坐在水管裂开的地方|它就是不肯离开院子的一个角|那一页纸一直被它压在身下|它在墙根下刨了起来]。
[大家一起|一步一步地|在{other}的帮助下|轮着来]，他们把[轮子|箱子|小船|炉子|桌子][抬起来|翻过来|倒空|上了油|拆开]，[原来在这里|一枚硬币滚了出来|它动了|剩下的就容易了]。
{other}[借|送|拿来|卖]给{he}{thing}，[只提了一个条件|换了一篮李子|怎么也不肯收钱|还叮嘱了一句]，[这就够了|活儿又接着干下去|从那时起事情就顺了|第二天就做成了]。
@end
[从那以后|打那天起|后来|如今]，[两个人每到星期五一起吃饭|墙上留着一道记号|那扇门再也不上锁|孩子们睡前总要听这个故事|那里的人再也不扔绳子]。
[所以|正因为这样|直到今天]，[风向标总是指着南边|那条长凳有五条腿|中午的钟要敲两遍|那家铺子论斤卖钉子，故事不要钱|小路在什么也没有的地方拐了一个弯]。
{who}[再也没有提起|每次讲得都不一样|笑了好多年|把{thing}留作纪念]，[也许这样最好|到底怎么回事，谁也说不准|后面的事大家都知道|猫也许知道得更多]。
[这不算什么大事|事情不大|没有人为此立碑]，可是[它很结实|这就够了|那个冬天暖和了不少|大家都记得]。
@weather
[那天早上|那天夜里|整个下午|整整一个星期][又冷又晴|天色灰蒙蒙的|暖和得不像那个季节|静得听得见芦苇响|刮着大风]，[海鸥不飞，只在地上走|炊烟直直地立在屋顶上|家家户户都开着窗|路上一个人也没有]。
[雪|雨|雾|沙尘]从[星期二|天亮|前一天|末班车开走以后]就没有[停过|散去]。
@weather_end
[到了傍晚|过了一个钟头|等他们抬起头来]，[雨停了|雾散了|风转了向|星星出来了]，[谁也不急着回家|每个人都分到一碗汤|灯一盏一盏亮起来|这件事就算定了]。
@howto
[清洗|保养|收拾]{tool}，[先|第一步是]用[软布|旧刷子|干抹布][擦去|刷掉|掸掉][灰尘|干泥|浮土]。[然后|接着|再]用[一滴油|一点蜡|肥皂和温水][慢慢擦|薄薄抹一层|来回揉]，[等|放上][十分钟|半个钟头|喝一杯茶的工夫]，再把多余的[抹去|擦干净]。[平时|用完以后]要[放在|挂在|收在][干燥|阴凉|避光]的地方，[离炉子远一点|不要贴着地|别让孩子够着]。[每个月|入冬之前|看着发暗的时候]做一次，[能用好多年|比人还长寿|用起来总是顺手]。
种{plant}[没有看上去那么难|全靠耐心|很适合让孩子来做]。[三月|四月|五月初]，等[土不再冰凉|最后一场霜过去]，把种子[埋一指深|撒在浅浅的土里|隔两拳放一粒]。[傍晚|每隔一天]浇一次水，[不要浇得太多|等表面干了再浇|千万别在正午浇]。长出[两对|四片]叶子以后，[拔掉弱的|移得宽一些|绑在小棍上]。[蜗牛也爱吃|鸟儿会来|杂草长得更快]，所以[每天要看一看|在四周撒一圈草木灰|要赶在它们前头]。[到了七月|夏末|十个星期以后]，就可以[开始摘了|尝尝鲜|分给邻居了]。
想做{dish}，[先准备|少不了][一口大锅|一只厚底锅|干净的手和锋利的刀]。把{food}[切块|切片|切成小丁]，锅里放一点[油|黄油]，[闻到香味|丢一粒面包屑会响]的时候[下锅|把东西倒进去]，[翻炒|慢慢炒][三|五|八]分钟。[然后|这时]加[热水|高汤|一杯牛奶]，[盖上盖子|敞着盖|用小火][煮|炖]着。[加盐|叫大家吃饭]之前先[尝一口|试试味道]。[筷子一扎就透|勺子划过留下印子|满屋都是过节的味道]，就[好了|可以关火了]。[配|就着][米饭|馒头|昨天剩下的饼]吃[最好|正合适]。
去{town}之前，[列|写]一张清单，{n1}行就够了。[重的东西|鞋子|书]放在[最下面|箱底]，[衬衫|外套][卷起来|裹着软的东西放]，{thing}要[放在口袋里|放在最上面|放在摸黑也找得到的地方]。[告诉家里人|跟邻居说一声]什么时候[回来|到]。如果[误了车|走错了路|忘了票]，[先坐下|不要跑|喝口水]，因为[总会有下一班|大多数错都是着急犯的|冷静的头脑抵得上两张地图]。[最后|对了]，[包里|箱子里]留一点空，好装[带回来的东西|回家路上买的点心]。
要修{tool}，先把它[翻过来|放在桌上|拿到亮处]，看清楚[哪里该动，哪里不该动|当初是从哪里接起来的|哪个零件磨坏了]。[拧下|拆下]第一颗螺丝之前，[拍张照片|画张草图]。零件按[拆下来|取出来]的先后[排成一行|放在碟子里]。只[换|洗|粘][坏了的那一个|磨坏的地方]，[等胶干了|别着急，等它干透]，再[反着顺序|从最后一个到第一个]装回去。要是[多出一个零件|剩下一颗螺丝]，就[再来一遍|先别声张|对着草图从头看]。
@view
在{town}，从[窗口|屋顶|长椅|露台]望出去，[能看见|数得出]{n1}[根烟囱|条船|级台阶|盏灯]，[一排|几处|一些旧的][白杨|棚屋|吊车|阳台]，[远处|后面|天晴的时候]还有[群山|海|邻镇的塔|铁路线]。[清早|天刚亮]，[面包师扛出木板|头班电车爬上坡|渔夫补着网|有人在弹音阶]；[中午|正午]，[百叶窗都关上了|广场上飘着汤的香味|狗躺在阴凉里|学校放学了]。[到了傍晚|太阳偏西]，[光变成了黄色|雨燕飞出来|店主坐在台阶上|河水的声音大起来]，{who}[在给花浇水|在调一台旧收音机|在喊孩子回家]。[这里算不上名胜|旅游书上没有这里|画家从来不来]，[好处正在这里|没有人在意|它只属于住在这里的人]。
{who}是{job}，桌上[放着|摆着|搁着]{tool}。它[比房子还老|比看上去重|用两种木头做成|颜色像浓茶]，[一边有个凹痕|底下刻着一个名字|把手换过两回|带着绳子和烟的味道]。[有人|以前的主人|岁月][把它磨得光滑|用铁丝补过它|在上面画了一颗小星星|在漆上留下了指印]。[拿起来|放到耳边|对着光]，[它会轻轻作响|看得见一道细缝|像河里捡来的石头一样贴手|好像还记得自己做过的事]。[没有人会买它|博物馆来要过一次|它不值几个钱]，可是{who}[舍不得丢|天天都用|只肯借给{other}]。
[亲爱的|好久不见，]{other}：[谢谢你的|收到了你的][来信|包裹|照片]，[很高兴|心里暖暖的]。[你走以后|这个周末以来|从{day}起]，[这里|{town}]一直[下雨|结冰|刮风|暖和得出奇]，{pet}[不肯出门|睡在炉子上|向你问好]。{who}[开始|不再|终于做完了][刷厨房|学笛子|织那条蓝围巾|修那条船]，所以我们[在过道里吃饭|一直关着窗|喝汤的时候有音乐听|还缺毛线]。[{day}|昨天|这个星期]我[数了|收了|送出去]{n1}[个梨|罐果酱|个南瓜|个鸡蛋]。[有空再来|有空写信|别忘了菜谱]，[记得带上|别落下]你的[伞|靴子|好心情]。{who2}。
"""
chinese_words = {
    "name": "小满 阿宁 老陈 秋生 木兰 大江 云姑 石根 春燕 阿吉 玉成 小舟 长林 桂芳 立夏 冬青 阿禾 向阳 海生 梅子 文德 小筑 柳婶 双喜".split(),
    "job": "面包师 钟表匠 木匠 养蜂人 算术老师 夜班护士 园丁 织布人 画招牌的人 磨坊主 裁缝 图书馆员 点灯人 守桥人 陶匠 钢琴调音师 船工".split(),
    "pet": "一只老狗 一只灰猫 一只花母鸡 一头驴 一只养熟的乌鸦 一只大鹅 一只独眼猫 一匹很小的马 一只乌龟 一只瘸腿鸭子".split(),
    "thing": "一把铜钥匙 一根新绳子 一盏更亮的灯 一双靴子 一把铜壶 一架折叠梯 一只银哨子 一把好刀 一张海岸地图 一个铁炉子 一个罗盘 一本蓝色笔记本 一根琴弦 一罐蜂蜜 一个放大镜 一条毛毯".split(),
    "tool": "一把铁锹 一只皮包 一条自行车链子 一把木椅 一口铁锅 一把剪刀 一把小刀 一盏旧灯笼 一个八音盒 一把水壶 一顶草帽 一台缝纫机 一个磨豆机 一把门锁 一只风筝 一把雨伞".split(),
    "plant": "豆角 萝卜 向日葵 生菜 西红柿 南瓜 香菜 胡萝卜 豌豆 洋葱 甜菜 万寿菊".split(),
    "dish": "蔬菜汤 土豆锅 洋葱炖肉 扁豆汤 南瓜羹 冬天的炖菜 蘑菇浓汤 豆子锅 白菜豆腐".split(),
    "food": "两个洋葱和一根胡萝卜 半个南瓜 四个土豆 一把蘑菇 三根大葱 一棵小白菜 一根莴笋和两个苹果 几瓣蒜和一个青椒 五个西红柿 一把菠菜".split(),
    "town": "柳溪 青石镇 望潮港 白塔镇 松湾 半山街 芦荡 新桥 镜湖 梨园村 雁洲 北渡".split(),
    "day": "星期一 星期二 星期三 星期四 星期五 星期六 星期天".split()}
women = set("Anna Clara Elena Greta Ida Karin Mira Olga Rosa Tilda Wanda Zora Dina".split())
ones = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen").split()
tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()
polygons = [(3, "triangle", "三角形"), (4, "square", "正方形"), (5, "pentagon", "五边形"), (6, "hexagon", "六边形"), (8, "octagon", "八边形"),
            (9, "nonagon", "九边形"), (10, "decagon", "十边形"), (12, "dodecagon", "十二边形"), (15, "15-gon", "十五边形"), (18, "18-gon", "十八边形"),
            (20, "20-gon", "二十边形"), (24, "24-gon", "二十四边形"), (30, "30-gon", "三十边形"), (36, "36-gon", "三十六边形")]
months = [("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30), ("July", 31), ("August", 31), ("September", 30),
          ("October", 31), ("November", 30), ("December", 31)]


def words_en(n: int) -> str:
    "`n` below ten thousand, in English words."
    if n < 20: return ones[n]
    if n < 100: return tens[n // 10 - 2] + ("-" + ones[n % 10] if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    rest = n % size
    return f"{words_en(n // size)} {name}" + (f"{' and' if rest < 100 else ''} {words_en(rest)}" if rest else "")


def words_zh(n: int) -> str:
    "`n` below ten thousand, in Chinese numerals."
    digits, text, gap = "零一二三四五六七八九", "", False
    for size, unit in (1000, "千"), (100, "百"), (10, "十"), (1, ""):
        digit = n // size % 10
        if digit: text, gap = text + ("零" if gap else "") + digits[digit] + unit, False
        elif text: gap = True
    return re.sub("^一十", "十", text) or "零"


def factors(n: int) -> list[int]: return [d for d in range(1, n + 1) if n % d == 0]


# ---- facts: each yields the slots of a template of its language, all computed

def number_fact(rng: random.Random) -> dict:
    "A number and what can be said of it."
    n = rng.randint(12, 400)
    found = factors(n)
    return {"n": n, "next": n + 1, "double": 2 * n, "square": n * n, "sum": sum(map(int, str(n))), "half": n // 2, "rest": n % 2, "count": len(found),
            "kind": "prime" if len(found) == 2 else "odd" if n % 2 else "even", "list": found, "total": n * (n + 1) // 2}


def sum_fact(rng: random.Random) -> dict:
    "A purchase: `a` things of price `p`, `b` of price `q`, paid with `paid`."
    a, b, p, q = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 12), rng.randint(3, 15)
    total = a * p + b * q
    paid = next(v for v in (20, 50, 100, 200, 300) if v > total)
    return {"a": a, "b": b, "p": p, "q": q, "ap": a * p, "bq": b * q, "total": total, "paid": paid, "change": paid - total}


def time_fact(rng: random.Random) -> dict:
    "A journey that ends on the day on which it begins."
    hour, minute, takes = rng.randint(6, 15), 5 * rng.randint(1, 11), rng.choice([n for n in range(35, 300, 5) if n % 60])
    end = hour * 60 + minute + takes
    return {"start": f"{hour}:{minute:02}", "takes": takes, "end": f"{end // 60}:{end % 60:02}", "h": takes // 60, "m": takes % 60, "wait": 60 - minute, "next": hour + 1}


def shape_fact(rng: random.Random) -> dict:
    "A rectangle, and a box that stands on it."
    a, b, c = rng.randint(3, 30), rng.randint(2, 24), rng.randint(2, 15)
    return {"a": a, "b": b, "c": c, "area": a * b, "around": 2 * (a + b), "volume": a * b * c, "double": 4 * a * b, "faces": 2 * (a * b + b * c + a * c)}


def polygon_fact(rng: random.Random) -> dict:
    "The angles of a polygon."
    n, en, zh = rng.choice(polygons)
    return {"n": n, "en": en, "zh": zh, "cuts": n - 2, "angles": 180 * (n - 2), "one": f"{180 * (n - 2) / n:g}", "turn": f"{360 / n:g}", "lines": n * (n - 3) // 2}


def calendar_fact(rng: random.Random) -> dict:
    "Days of the week and of the year."
    first, later, month, year = rng.randrange(7), rng.choice([n for n in range(10, 100) if n % 7]), rng.randrange(12), rng.randint(1801, 2099)
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    before = sum(days for _, days in months[:month]) + (leap and month > 1)
    return {"first": first, "later": later, "weeks": later // 7, "rest": later % 7, "last": (first + later) % 7, "month": month, "year": year, "leap": leap,
            "before": before, "days": months[month][1] + (leap and month == 1), "all": 365 + leap}


def walk_fact(rng: random.Random) -> dict:
    "A way at an even speed."
    speed, hours, back = rng.randint(3, 18), rng.randint(2, 7), rng.randint(1, 9)
    return {"v": speed, "t": hours, "d": speed * hours, "metres": speed * hours * 1000, "more": back, "far": speed * hours + back, "per": speed * 1000}


def share_fact(rng: random.Random) -> dict:
    "Things that are shared out, with some left over."
    people, each = rng.randint(3, 12), rng.randint(3, 25)
    left = rng.randint(2, people - 1)
    return {"k": people, "e": each, "r": left, "n": people * each + left, "even": people * each, "miss": people - left}


facts_en = {number_fact: ["[Take|Consider|Look at|Think of] the number {n}. [It is {kind}|We call it {kind}], and the sum of its digits is {sum}. [It has|You can find] {count} divisors: {list}. [Twice as much is|Doubled, it gives] {double}, [and multiplied by itself it is|while its square is] {square}. [If you add up all whole numbers from 1 to {n}|Adding 1, 2, 3 and so on up to {n}], [you get|the result is] {total}, because {n} times {next} is twice that.",
                          "[A pupil|{who}|The teacher] [wrote|chalked|drew] {n} on the board. \"[Is it|Would you say it is] prime?\" [asked|said] {other}. They [tried|looked for] divisors [one after another|from below] and found {count} in all: {list}. [Halved, it is {half} with {rest} left over.|Divided by two, it leaves {rest}.] [Then|For the last minutes] they [squared it|multiplied it by itself] and [got|wrote down] {square}; the digits of {n} itself [come to|add up to] {sum}."],
            sum_fact: ["{who} [bought|picked out|asked for] {a_w} [pears|rolls|candles|pencils] at {p_w} coins each and {b_w} [lemons|ribbons|jars|brushes] at {q_w} coins each. {a_w2} times {p_w} is {ap_w}, and {b_w} times {q_w} is {bq_w}. [Together that makes|In all it comes to|The sum is] {total_w}. [{he2} put {paid_w} on the counter|{he2} paid with {paid_w}] and [got|was given|counted] {change_w} [back|in change].",
                       "\"[How much is that|What do I owe you|What does it come to]?\" asked {who}. [{other} took a pencil|{other} counted on the fingers|{other} wrote on a paper bag]: \"{a_w2} [cups|hooks|loaves] at {p_w} are {ap_w}. {b_w2} [plates|nails|cakes] at {q_w} are {bq_w}. {ap_w2} and {bq_w} are {total_w}.\" {who} [laid down|gave|had only] {paid_w}, so the change was {change_w}[, to the last coin|, and both were content|]."],
            time_fact: ["The [train|ferry|bus] [from {town}|to {town}] leaves at {start} and [takes|needs] {takes} minutes, [that is|in other words] {h} hours and {m} minutes. [It arrives at|So it is there at|You get off at] {end}. [To find this,|{who} works it out like this:] [first go|go] to the next full hour: {wait} minutes [bring you|lead] to {next}:00, and [what is left of the {takes} is added to that|the remaining minutes are added there]."],
            shape_fact: ["{who} [fenced|measured|laid out] a [field|garden|floor] {a} metres long and {b} metres wide. [Its area is|It covers] {a} times {b}, [which is|or] {area} square metres, and [the fence around it is|once around is] {around} metres. [If both sides were twice as long|With sides twice as long], the area would be {double} square metres: [not twice|four times as much, not twice], [a fact that surprises many people|as a drawing shows at once].",
                         "A [box|crate|tank|chest] is {a} centimetres long, {b} wide and {c} high. [The bottom has|Its base has] {area} square centimetres, so the [volume is|box holds] {area} times {c}, or {volume} cubic centimetres. [To paint it on all six sides|To cover every face] {who} needs paint for {faces} square centimetres, since [opposite faces are equal|each face comes twice]."],
            polygon_fact: ["[Every {en}|Any {en}] has {n} corners. [From one corner|Starting at one corner] you can cut [it|a convex one] into {cuts} triangles, and the angles of each triangle add up to 180 degrees, so [all its angles together make|the sum is] {angles} degrees. [In a regular one|If all of them are equal], each is {one} degrees, and [somebody|{who}, {job},] [walking along the edge|walking round it] turns by {turn} degrees at each corner. It has {lines} diagonals."],
            calendar_fact: ["[Suppose today is|Say that today is|If today is] {first_day}. [Which day will it be|What day comes] in {later} days? [{later} days are|{later} is] {weeks} weeks and {rest} days over, and [whole weeks change nothing|full weeks can be left out]. [Counting {rest} on from {first_day}|So count {rest} further], [we reach|you come to] {last_day}. [{who}|{other}] [checked it on the kitchen calendar|needed the fingers of one hand|did it in the head].",
                            "The year {year} [has|counts] {all} days, [because|since] it is {leap_word} leap year. [Its month of|In it,] {month_name} has {days} days, and {before} days of the year [have passed|lie behind] when {month_name} begins. [A year is a leap year if|The rule is this:] its number can be divided by 4, but [full hundreds count only if|a full hundred counts only if] 400 divides them."],
            walk_fact: ["{who} [walks|rides|rows] {t_w} hours at {v} kilometres an hour. [That is|It makes] {t_w} times {v}, so {d} kilometres, or {metres} metres. [After a rest|After lunch|At the inn] {he} [goes on|adds] {more} more, [and the day comes to|which makes] {far} kilometres. [At {v} kilometres an hour|At that speed] one hour is {per} metres[, and half an hour is half of that|]."],
            share_fact: ["{who} [has|brought|found] {n} [nuts|marbles|plums|stamps] for {k_w} [children|cousins|friends]. [Everyone gets|Each receives] {e_w}, [because|for] {k} times {e} is {even}; {r_w} [stay in the bowl|are left over|go to {pet}]. [With {miss} more|Had there been {miss} more], [each could have had|everybody would have got] one more. [So {n} divided by {k} is {e}, remainder {r}.|We write: {n} = {k} × {e} + {r}.]"]}
facts_zh = {number_fact: ["[看看|想一想|说说]{n}这个数。它是{kind}，各位数字加起来等于{sum}。[它的因数|能整除它的数]有{count}个：{list}。[它的两倍|翻一倍]是{double}，[自己乘自己|它的平方]是{square}。从一一直加到{n}，[得到|结果是]{total}，因为{n}乘{next}正好是这个数的两倍。",
                          "{who}在[黑板|纸|沙地]上写下{n}。“[它是质数吗|这是质数吧]？”{other}[问|说]。他们[一个一个地试|从小到大试]，[找到了|数出]{count}个因数：{list}。[除以二，商{half}余{rest}。|分成两半，每半{half}，还剩{rest}。][最后|临走前]又算了它的平方，[得|是]{square}；各位数字的和是{sum}。"],
            sum_fact: ["{who}[买了|挑了|要了]{a_w}[个梨|支蜡烛|支铅笔|块饼]，单价{p_w}元，又[买了|拿了]{b_w}[个柠檬|条丝带|把刷子|只罐子]，单价{q_w}元。{a_w}乘{p_w}得{ap_w}，{b_w}乘{q_w}得{bq_w}，[一共|合起来|加在一起]是{total_w}元。[付了|递过去|拿出]{paid_w}元，[找回|找零]{change_w}元。",
                       "“[一共多少钱|我该付多少|算好了吗]？”{who}问。{other}[掰着手指|拿起铅笔|在纸袋上]算：“[杯子|钩子|面包]{a_w}个，单价{p_w}，得{ap_w}；[盘子|钉子|点心]{b_w}个，单价{q_w}，得{bq_w}。{ap_w}加{bq_w}，是{total_w}。”{who}[给了|只有]{paid_w}元，[应找|找回]{change_w}元[，一分不差|，两个人都满意|]。"],
            time_fact: ["[开往|来自]{town}的[火车|渡船|汽车]{start}开，路上要{takes}分钟，[也就是|合]{h}小时{m}分，[到站|到达]的时间是{end}。[{who}是这样算的|算法是这样]：先走到下一个整点，{wait}分钟以后是{next}:00，[再把剩下的分钟加上去|余下的分钟从那里接着数]。"],
            shape_fact: ["{who}[围了|量了|开出]一块[地|院子|菜园]，长{a}米，宽{b}米。面积是{a}乘{b}，[等于|也就是]{area}平方米，[四周的篱笆|绕一圈]是{around}米。[要是|如果]长和宽都[加倍|变成两倍]，面积就是{double}平方米，[不是原来的两倍，而是四倍|是原来的四倍][，许多人头一回听都不信|，画张图就明白了|]。",
                         "一只[箱子|木盒|水槽]长{a}厘米，宽{b}厘米，高{c}厘米。底面是{area}平方厘米，[所以|因此]体积是{area}乘{c}，[等于|即]{volume}立方厘米。六个面都[刷漆|贴纸]的话，{who}要准备够{faces}平方厘米的[料|材料]，因为[相对的面一样大|每种面都有两个]。"],
            polygon_fact: ["{zh}有{n}个角。从一个顶点出发，可以把[它|凸的{zh}]分成{cuts}个三角形，每个三角形的内角和是180度，所以内角[加起来|之和]是{angles}度。[如果每个角都相等|正的图形里]，每个角是{one}度；[{who}沿着边走一圈|沿边走的人]，每到一个角要转{turn}度。它[一共有|有]{lines}条对角线。"],
            calendar_fact: ["[假如|要是]今天是{first_day}，{later}天以后是星期几？{later}天[等于|就是]{weeks}个星期零{rest}天，整星期[不用管|可以去掉]，从{first_day}往后数{rest}天，[就到了|便是]{last_day}。{who}[在日历上数了一遍|伸出一只手就够了|心里默算了一下]，[果然不错|一点不差|跟{other}算的一样]。",
                            "{year}年[有|一共是]{all}天，因为它{leap_word}闰年。这一年的{month_name}有{days}天，{month_name}开始的时候，[已经过去了|前面是]{before}天。[闰年的规矩是|判断的办法]：年份能被4整除；[逢整百|整百的年份]，[还要|必须]能被400整除。"],
            walk_fact: ["{who}[步行|骑车|划船]，每小时{v}公里，[走了|一共用了]{t_w}个小时。{t}乘{v}，[是|得]{d}公里，[也就是|合]{metres}米。[歇了一会儿|吃过午饭|在客栈喝了茶]，又走了{more}公里，[这一天|全天]是{far}公里。照这个速度，一小时{per}米[，半小时就是它的一半|]。"],
            share_fact: ["{who}有{n}[颗核桃|粒弹珠|个李子|枚邮票]，要分给{k_w}个[孩子|朋友|亲戚]。{k}乘{e}是{even}，所以每人[得到|分到]{e_w}，还剩{r_w}，[放回碗里|留给{pet}|收进抽屉]。[要是再多{miss}个|如果再添{miss}个]，每人就能多一个。[写成算式|记下来]：{n}除以{k}，商{e}，余{r}。"]}
facts = {"en": facts_en, "zh": facts_zh}


@lru_cache
def grammar(language: str) -> dict[str, list[str]]:
    "The lines of each section of the grammar of a language."
    found: dict[str, list[str]] = {}
    for line in {"en": english_text, "zh": chinese_text}[language].strip().splitlines():
        if line.startswith("@"): lines = found.setdefault(line[1:], [])
        else: lines.append(line)
    return found


def expand(text: str, rng: random.Random, language: str) -> str:
    "`text` with its choices taken and its sections filled."
    while True:
        choice = re.search(r"\[([^\[\]]*)\]", text)
        if choice: text = text[:choice.start()] + rng.choice(choice[1].split("|")) + text[choice.end():]
        elif re.search(r"<(\w+)>", text): text = re.sub(r"<(\w+)>", lambda m: rng.choice(grammar(language)[m[1]]), text, count=1)
        else: return text


def people(rng: random.Random, language: str) -> dict[str, str]:
    "Slots for the persons and things of one paragraph."
    words, say = (english_words, words_en) if language == "en" else (chinese_words, words_zh)
    found = {key: rng.choice(words[key]) for key in words if key != "name"}
    found["who"], found["other"], found["who2"] = rng.sample(words["name"], 3)
    she = found["who"] in women if language == "en" else rng.random() < .5
    found |= dict(zip(("he", "him"), (("she", "her") if she else ("he", "him")) if language == "en" else "她她" if she else "他他"))
    found |= {"he2": found["he"].capitalize(), "tool2": found["tool"].capitalize(), "n1": say(rng.randint(3, 19))}
    return found | {"thing2": rng.choice([w for w in words["thing"] if w != found["thing"]])}


def fact(rng: random.Random, language: str, kind: Callable) -> str:
    "A paragraph about a fact of a kind, not yet filled with names."
    slots, say = kind(rng), words_en if language == "en" else words_zh
    numbers = {f"{k}_w": say(v) for k, v in slots.items() if type(v) is int and 0 <= v < 10_000}
    slots |= numbers | {f"{k}2": v.capitalize() for k, v in numbers.items()}
    days = (english_words if language == "en" else chinese_words)["day"]
    if kind is calendar_fact:
        slots |= {"first_day": days[slots["first"]], "last_day": days[slots["last"]],
                  "month_name": months[slots["month"]][0] if language == "en" else words_zh(slots["month"] + 1) + "月",
                  "leap_word": ("a" if slots["leap"] else "not a") if language == "en" else "是" if slots["leap"] else "不是"}
    if kind is number_fact:
        slots["list"] = (", " if language == "en" else "、").join(map(str, slots["list"]))
        if language == "zh": slots["kind"] = {"prime": "质数", "odd": "奇数", "even": "偶数"}[slots["kind"]]
    text = expand(rng.choice(facts[language][kind]), rng, language)
    return fill(text, slots)


def fill(text: str, slots: dict) -> str: return re.sub(r"\{(\w+)\}", lambda m: str(slots.get(m[1], m[0])), text)


def paragraph(rng: random.Random, language: str, kind: str | Callable) -> str:
    "One generated paragraph of a kind: a section of the grammar or a function that computes a fact."
    text = expand(rng.choice(grammar(language)[kind]), rng, language) if type(kind) is str else fact(rng, language, kind)
    text = fill(text, people(rng, language))
    if language == "zh": text = re.sub("(?<![一二三四五六七八九十百千])二(?=[个块条支把只])", "两", text)
    text = re.sub(r"(?:^|(?<=[.!?] ))[a-z]", lambda m: m[0].upper(), text) if language == "en" else text
    return re.sub(r"\b1 (triangle|hour|minute|week|day)s\b", r"1 \1", text)


def pieces(text: str, language: str) -> set[str]:
    "All pieces of `span` characters of `text`."
    return {text[i:i + span[language]] for i in range(len(text) - span[language] + 1)}


def written(language: str) -> list[str]:
    "The paragraphs that were written by hand."
    return (here / f"sources/text_{language}.txt").read_text(encoding="utf-8").strip().split("\n\n")


def paragraphs(language: str, seed: int = 17, tries: int = 8) -> Iterator[str]:
    "Written and generated paragraphs; of `tries` drafts the one is kept that repeats least of those before it."
    rng, seen = random.Random(f"{seed}{language}"), set()
    found, size = written(language), sum(len(p.encode()) + 2 for p in written(language))
    for text in found: seen |= pieces(text, language)
    while True:
        kind = rng.choices(["tale", "howto", "view", rng.choice(list(facts[language]))], [6, 2.5, 2.5, 2.5])[0]
        drafts = [paragraph(rng, language, kind) for _ in range(tries)]
        text = min(drafts, key=lambda d: len(pieces(d, language) & seen) / len(pieces(d, language)))
        size += len(text.encode()) + 2
        if size > sizes[language]: break
        found, seen = [*found, text], seen | pieces(text, language)
    rng.shuffle(found)
    return iter(found)


@lru_cache
def bundled_files() -> dict[str, str]:
    "File name → text of everything this script writes."
    return {f"text_{language}.txt": "\n\n".join(paragraphs(language)) + "\n" for language in sizes}


def main() -> int:
    "Write the files, or compare them with `--check`; 0 when all is well."
    files, check = bundled_files(), "--check" in sys.argv[1:]
    stale = [n for n, text in files.items() if not (folder / n).is_file() or (folder / n).read_text(encoding="utf-8") != text]
    for name in [] if check else files: (folder / name).write_text(files[name], encoding="utf-8")
    print(f"{', '.join(stale)} differ" if check and stale else ", ".join(f"{n}: {len(t.encode())} bytes" for n, t in files.items()))
    return int(check and bool(stale))


if __name__ == "__main__": raise SystemExit(main())
