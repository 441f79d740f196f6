"""The text of the synthetic speakers: some tens of everyday words of each language, and syllables of invented words."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

ACCENTS = {  #: further espeak-ng voices that read the words of a language
    "en-us": ("en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-us-nyc"),
    "es": ("es-419",),
    "fr-fr": ("fr-be", "fr-ch"),
    "pt-br": ("pt",),
    "vi": ("vi-vn-x-central", "vi-vn-x-south"),
}

#: espeak-ng's name of the language: its words. Of each, one in four is held out (splits.py).
WORDS = {
    "en-us": "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government number night "
    "point home water room mother area money story fact month lot right study book eye job word business issue "
    "side kind head house service friend father power hour game line end member law car city community name "
    "president team minute idea body information back parent face others level office door health person art "
    "war history party result change morning reason research girl guy moment air teacher force education "
    "measure thought vision judge church joy",
    "de": "Zeit Jahr Mensch Weg Tag Mann Ding Frau Leben Kind Welt Schule Staat Familie Gruppe Land Problem "
    "Hand Teil Ort Fall Woche Frage Arbeit Zahl Nacht Haus Wasser Zimmer Mutter Geld Geschichte Monat Buch Auge "
    "Wort Straße Freund Vater Stunde Spiel Stadt Name Körper Gesicht Tür Gesundheit Kunst Krieg Ergebnis Morgen "
    "Luft Lehrer Mädchen schön größer zwischen vielleicht Zeitung pflanzen",
    "fr-fr": "temps année gens chemin jour homme chose femme vie enfant monde école famille groupe pays "
    "problème main partie lieu semaine question travail nombre nuit maison eau chambre mère argent histoire "
    "mois livre œil mot rue ami père heure jeu ville nom corps visage porte santé art guerre résultat matin air "
    "bonjour oiseau feuille longtemps quelquefois chercher grenouille soleil",
    "es": "tiempo año gente camino día hombre cosa mujer vida niño mundo escuela familia grupo país problema "
    "mano parte lugar semana pregunta trabajo número noche casa agua cuarto madre dinero historia mes libro ojo "
    "palabra calle amigo padre hora juego ciudad nombre cuerpo cara puerta salud arte guerra resultado mañana "
    "aire perro ferrocarril joven queso llave zapato",
    "it": "tempo anno gente strada giorno uomo cosa donna vita bambino mondo scuola famiglia gruppo paese "
    "problema mano parte luogo settimana domanda lavoro numero notte casa acqua stanza madre denaro storia mese "
    "libro occhio parola amico padre ora gioco città nome corpo faccia porta salute arte guerra risultato "
    "mattina aria gnocchi sbaglio ghiaccio spiaggia zucchero",
    "pt-br": "tempo ano gente caminho dia homem coisa mulher vida criança mundo escola família grupo país "
    "problema mão parte lugar semana pergunta trabalho número noite casa água quarto mãe dinheiro história mês "
    "livro olho palavra rua amigo pai hora jogo cidade nome corpo rosto porta saúde arte guerra resultado manhã "
    "coração jeito chuva",
    "nl": "tijd jaar mensen weg dag man ding vrouw leven kind wereld school staat familie groep land probleem "
    "hand deel plaats week vraag werk nacht huis water kamer moeder geld verhaal maand boek oog woord straat "
    "vriend vader uur spel stad naam lichaam gezicht deur gezondheid kunst oorlog ochtend lucht leraar meisje "
    "schrijven vliegtuig",
    "pl": "czas rok ludzie droga dzień mężczyzna rzecz kobieta życie dziecko świat szkoła rodzina grupa kraj "
    "problem ręka część miejsce tydzień pytanie praca liczba noc dom woda pokój matka pieniądze historia "
    "miesiąc książka oko słowo ulica przyjaciel ojciec godzina gra miasto imię ciało twarz drzwi zdrowie sztuka "
    "wojna wynik rano powietrze",
    "cs": "čas rok lidé cesta den muž věc žena život dítě svět škola rodina skupina země problém ruka část "
    "místo týden otázka práce číslo noc dům voda pokoj matka peníze příběh měsíc kniha oko slovo ulice přítel "
    "otec hodina hra město jméno tělo tvář dveře zdraví umění válka výsledek ráno vzduch řeka třicet",
    "ro": "timp an oameni drum zi bărbat lucru femeie viață copil lume școală familie grup țară problemă mână "
    "parte loc săptămână întrebare muncă număr noapte casă apă cameră mamă bani poveste lună carte ochi cuvânt "
    "stradă prieten tată oră joc oraș nume corp față ușă sănătate artă război rezultat dimineață aer",
    "fi": "aika vuosi ihmiset tie päivä mies asia nainen elämä lapsi maailma koulu perhe ryhmä maa ongelma käsi "
    "osa paikka viikko kysymys työ numero yö talo vesi huone äiti raha tarina kuukausi kirja silmä sana katu "
    "ystävä isä tunti peli kaupunki nimi keho kasvot ovi terveys taide sota tulos aamu ilma pöytä järvi",
    "tr": "zaman yıl insanlar yol gün adam şey kadın hayat çocuk dünya okul aile grup ülke sorun el parça yer "
    "hafta soru iş sayı gece ev su oda anne para hikaye ay kitap göz kelime sokak arkadaş baba saat oyun şehir "
    "isim vücut yüz kapı sağlık sanat savaş sonuç sabah hava öğretmen güneş çiçek",
    "id": "waktu tahun orang jalan hari lelaki benda perempuan hidup anak dunia sekolah keluarga kelompok "
    "negara masalah tangan bagian tempat minggu pertanyaan kerja angka malam rumah air kamar ibu uang cerita "
    "bulan buku mata kata teman ayah jam permainan kota nama tubuh wajah pintu kesehatan seni perang hasil pagi "
    "udara nyanyian",
    "da": "tid år mennesker vej dag mand ting kvinde liv barn verden skole familie gruppe land problem hånd del "
    "sted uge spørgsmål arbejde nummer nat hus vand værelse mor penge historie måned bog øje ord gade ven far "
    "time spil by navn krop ansigt dør sundhed kunst krig resultat morgen luft lærer pige smørrebrød",
    "vi": "thời gian năm người đường ngày đàn ông điều phụ nữ cuộc sống trẻ em thế giới trường học gia đình "
    "nhóm nước vấn đề tay phần nơi tuần câu hỏi công việc số đêm nhà nước phòng mẹ tiền chuyện tháng sách mắt "
    "từ bạn cha giờ thành phố tên cơ thể mặt cửa sức khỏe nghệ thuật sáng không khí",
    "ru": "время год люди дорога день мужчина вещь женщина жизнь ребёнок мир школа семья группа страна проблема "
    "рука часть место неделя вопрос работа число ночь дом вода комната мать деньги история месяц книга глаз "
    "слово улица друг отец час игра город имя тело лицо дверь здоровье искусство война утро воздух учитель "
    "девочка",
    "uk": "час рік люди дорога день чоловік річ жінка життя дитина світ школа родина група країна проблема рука "
    "частина місце тиждень питання робота число ніч дім вода кімната мати гроші історія місяць книга око слово "
    "вулиця друг батько година гра місто ім'я тіло обличчя двері здоров'я мистецтво війна ранок повітря",
    "bg": "време година хора път ден мъж нещо жена живот дете свят училище семейство група страна проблем ръка "
    "част място седмица въпрос работа число нощ къща вода стая майка пари история месец книга око дума улица "
    "приятел баща час игра град име тяло лице врата здраве изкуство война сутрин въздух",
    "hi": "समय साल लोग रास्ता दिन आदमी चीज़ औरत जीवन बच्चा दुनिया स्कूल परिवार समूह देश समस्या हाथ भाग जगह "
    "सप्ताह सवाल काम संख्या रात घर पानी कमरा माँ पैसा कहानी महीना किताब आँख शब्द सड़क दोस्त पिता घंटा खेल शहर "
    "नाम शरीर चेहरा दरवाज़ा स्वास्थ्य कला युद्ध परिणाम सुबह हवा",
    "bn": "সময় বছর মানুষ পথ দিন পুরুষ জিনিস নারী জীবন শিশু পৃথিবী স্কুল পরিবার দল দেশ সমস্যা হাত অংশ জায়গা "
    "সপ্তাহ প্রশ্ন কাজ সংখ্যা রাত বাড়ি জল ঘর মা টাকা গল্প মাস বই চোখ শব্দ রাস্তা বন্ধু বাবা ঘণ্টা খেলা শহর নাম "
    "শরীর মুখ দরজা",
    "ta": "நேரம் ஆண்டு மக்கள் வழி நாள் மனிதன் பொருள் பெண் வாழ்க்கை குழந்தை உலகம் பள்ளி குடும்பம் குழு நாடு கை "
    "பகுதி இடம் வாரம் கேள்வி வேலை எண் இரவு வீடு தண்ணீர் அறை அம்மா பணம் கதை மாதம் புத்தகம் கண் சொல் தெரு நண்பன் "
    "அப்பா மணி",
    "ar": "وقت سنة ناس طريق يوم رجل شيء امرأة حياة طفل عالم مدرسة عائلة مجموعة بلد مشكلة يد جزء مكان أسبوع سؤال "
    "عمل رقم ليل بيت ماء غرفة أم مال قصة شهر كتاب عين كلمة شارع صديق أب ساعة لعبة مدينة اسم جسم وجه باب صحة فن "
    "حرب نتيجة صباح هواء",
    "fa": "زمان سال مردم راه روز مرد چیز زن زندگی بچه دنیا مدرسه خانواده گروه کشور مشکل دست بخش جا هفته سوال "
    "کار شماره شب خانه آب اتاق مادر پول داستان ماه کتاب چشم کلمه خیابان دوست پدر ساعت بازی شهر نام بدن صورت در "
    "سلامت هنر جنگ صبح",
    "ka": "დრო წელი ხალხი გზა დღე კაცი საქმე ქალი ცხოვრება ბავშვი სამყარო სკოლა ოჯახი ჯგუფი ქვეყანა პრობლემა "
    "ხელი ნაწილი ადგილი კვირა კითხვა მუშაობა რიცხვი ღამე სახლი წყალი ოთახი დედა ფული ამბავი თვე წიგნი თვალი "
    "სიტყვა ქუჩა მეგობარი მამა საათი თამაში ქალაქი სახელი",
    "cmn": "时间 年 人们 道路 日子 男人 东西 女人 生活 孩子 世界 学校 国家 家庭 小组 问题 手 部分 地方 星期 "
    "工作 数字 晚上 房子 水 房间 母亲 钱 故事 月亮 书 眼睛 词语 街道 朋友 父亲 小时 游戏 城市 名字 身体 脸 门 "
    "健康 艺术 战争 结果 早上 空气 老师 女孩 太阳 花 飞机 火车",
    "ja": "じかん とし ひとびと みち ひ おとこ もの おんな いのち こども せかい がっこう かぞく なかま くに "
    "もんだい て ぶぶん ばしょ しゅう しつもん しごと かず よる いえ みず へや はは おかね はなし つき ほん め "
    "ことば とおり ともだち ちち あそび まち なまえ からだ かお とびら けんこう げいじゅつ あさ くうき せんせい "
    "ひこうき りょこう",
    "ko": "시간 년 사람들 길 날 남자 것 여자 생활 아이 세계 학교 가족 모임 나라 문제 손 부분 곳 주 질문 일 숫자 "
    "밤 집 물 방 어머니 돈 이야기 달 책 눈 단어 거리 친구 아버지 놀이 도시 이름 몸 얼굴 문 건강 예술 전쟁 결과 "
    "아침 공기 선생님 소녀",
    # The languages from here on are never trained on.
    "sv": "tid år människor väg dag man sak kvinna liv barn värld skola familj grupp land problem hand del "
    "plats vecka fråga arbete nummer natt hus vatten rum mor pengar berättelse månad bok öga ord gata vän far "
    "timme spel stad namn kropp ansikte dörr hälsa konst krig resultat morgon luft lärare flicka sjuk kyrka",
    "hu": "idő év emberek út nap férfi dolog nő élet gyerek világ iskola család csoport ország probléma kéz "
    "rész hely hét kérdés munka szám éjszaka ház víz szoba anya pénz történet hónap könyv szem szó utca barát "
    "apa óra játék város név test arc ajtó egészség művészet háború eredmény reggel levegő tanár lány",
    "el": "χρόνος έτος άνθρωποι δρόμος μέρα άνδρας πράγμα γυναίκα ζωή παιδί κόσμος σχολείο οικογένεια ομάδα "
    "χώρα πρόβλημα χέρι μέρος τόπος εβδομάδα ερώτηση δουλειά αριθμός νύχτα σπίτι νερό δωμάτιο μητέρα λεφτά "
    "ιστορία μήνας βιβλίο μάτι λέξη φίλος πατέρας ώρα παιχνίδι πόλη όνομα σώμα πρόσωπο πόρτα υγεία τέχνη "
    "πόλεμος πρωί αέρας",
    "sw": "wakati mwaka watu njia siku mwanamume kitu mwanamke maisha mtoto dunia shule familia kikundi nchi "
    "tatizo mkono sehemu mahali wiki swali kazi nambari usiku nyumba maji chumba mama pesa hadithi mwezi kitabu "
    "jicho neno mtaa rafiki baba saa mchezo mji jina mwili uso mlango afya sanaa vita matokeo asubuhi hewa",
}
HELD_OUT_LANGUAGES = ("sv", "hu", "el", "sw")
TRAINED_LANGUAGES = tuple(language for language in WORDS if language not in HELD_OUT_LANGUAGES)


@dataclass(frozen=True)
class Syllables:
    """A syllable is one of `onsets`, one of `nuclei` and one of `codas`, each separated by blanks; "-" is none."""

    onsets: str
    nuclei: str
    codas: str = "-"

    def spell(self) -> list[str]:
        parts = itertools.product(self.onsets.split(), self.nuclei.split(), self.codas.split())
        return ["".join(part).replace("-", "") for part in parts]


LATIN = Syllables(
    "- b d f g h j k l m n p r s t v w z bl br dr fl fr gl gr kl kr pl pr sk sl sm sn sp st str tr sh ch",
    "a e i o u ai au ei ou ie",
    "- - - n m l r s t k nd st",
)
CYRILLIC = Syllables(
    "- б в г д ж з к л м н п р с т ф х ц ч ш бр гр др кр пр тр ст сл", "а е и о у я ю", "- - - н м л р с т к й"
)
INDIC = "क ख ग घ च छ ज झ ट ड त थ द ध न प फ ब भ म य र ल व श स ह"
ALEF = Syllables("ب ت ج ح خ د ر ز س ش ع ف ق ك ل م ن ه و ي", "ا ي و", "- - ن م ل ر س ت")
SYLLABLES = {  #: of the languages that are not written in Latin letters
    "ru": CYRILLIC,
    "uk": CYRILLIC,
    "bg": CYRILLIC,
    "hi": Syllables(INDIC, "ा ि ी ु ू े ै ो ौ", "- - न म ल र स त"),
    "bn": Syllables("ক খ গ ঘ চ ছ জ ট ড ত থ দ ধ ন প ফ ব ভ ম র ল শ স হ", "া ি ী ু ে ো", "- - ন ম ল র ত"),
    "ta": Syllables("க ச ட த ந ப ம ய ர ல வ ள ன", "ா ி ீ ு ூ ெ ே ை ொ ோ", "- - ம் ன் ர் ல் ட்"),
    "ar": ALEF,
    "fa": ALEF,
    "ka": Syllables("ბ გ დ ვ ზ თ კ ლ მ ნ პ რ ს ტ ფ ქ ღ ყ შ ჩ ც ძ წ ჭ ხ ჯ ჰ", "ა ე ი ო უ", "- - ნ მ ლ რ ს"),
    "cmn": Syllables(
        "-",
        "大 小 天 地 山 河 风 雨 花 草 鸟 鱼 马 牛 红 白 高 低 快 慢 走 跑 听 说 读 写 想 看 吃 喝 睡 坐 青 明 春 秋",
    ),
    "ja": Syllables(
        "-",
        "か き く け こ さ し す せ そ た ち つ て と な に ぬ ね の は ひ ふ へ ほ ま み む め も や ゆ よ ら "
        "り る れ ろ わ が ぎ ご ざ ず だ で ど ば び ぶ べ ぼ ぱ ぴ ぽ",
        "- - - ん",
    ),
    "ko": Syllables(
        "-",
        "가 나 다 라 마 바 사 아 자 차 카 타 파 하 거 너 더 러 머 버 서 어 저 고 노 도 로 모 보 소 오 조 구 누 "
        "두 무 부 수 우 기 니 디 리 미 비 시 이 강 남 달 물 산 섬 국 밥",
    ),
    "el": Syllables("- β γ δ ζ θ κ λ μ ν ξ π ρ σ τ φ χ ψ κρ πρ στ τρ", "α ε ι ο ου", "- - - ς ν"),
}


def words_of(language: str) -> tuple[str, ...]:
    """The words of a language, each once."""
    return tuple(dict.fromkeys(WORDS[language].split()))


def syllables_of(language: str) -> list[str]:
    """The syllables of invented words of a language."""
    return SYLLABLES.get(language, LATIN).spell()
