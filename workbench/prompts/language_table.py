"""The languages the workbench knows by name: ISO 639-1 whole, and the ISO 639-3 codes that multilingual sets use (FLORES-200, NTREX-128).

Columns: tag, ISO 639-3, the script (ISO 15924) usually written, English name. Source: the ISO 639 and CLDR registries.
"""

TABLE = """
aa aar Latn Afar | ab abk Cyrl Abkhazian | ace ace Latn Acehnese | acm acm Arab Mesopotamian Arabic | acq acq Arab Ta'izzi-Adeni Arabic
ae ave Latn Avestan | aeb aeb Arab Tunisian Arabic | af afr Latn Afrikaans | ajp ajp Arab South Levantine Arabic | ak aka Latn Akan
am amh Ethi Amharic | an arg Latn Aragonese | apc apc Arab Levantine Arabic | ar ara Arab Arabic | ars ars Arab Najdi Arabic
ary ary Arab Moroccan Arabic | arz arz Arab Egyptian Arabic | as asm Beng Assamese | ast ast Latn Asturian | av ava Cyrl Avaric
awa awa Deva Awadhi | ay aym Latn Aymara | az aze Latn Azerbaijani | azb azb Arab South Azerbaijani | ba bak Cyrl Bashkir | ban ban Latn Balinese
be bel Cyrl Belarusian | bem bem Latn Bemba | bg bul Cyrl Bulgarian | bho bho Deva Bhojpuri | bi bis Latn Bislama | bjn bjn Latn Banjar
bm bam Latn Bambara | bn ben Beng Bengali | bo bod Tibt Tibetan | br bre Latn Breton | bs bos Latn Bosnian | bug bug Latn Buginese
ca cat Latn Catalan | ce che Cyrl Chechen | ceb ceb Latn Cebuano | ch cha Latn Chamorro | cjk cjk Latn Chokwe | ckb ckb Arab Central Kurdish
co cos Latn Corsican | cr cre Latn Cree | crh crh Latn Crimean Tatar | cs ces Latn Czech | cu chu Latn Church Slavic | cv chv Cyrl Chuvash
cy cym Latn Welsh | da dan Latn Danish | de deu Latn German | dik dik Latn Southwestern Dinka | dv div Thaa Divehi | dyu dyu Latn Dyula
dz dzo Tibt Dzongkha | ee ewe Latn Ewe | el ell Grek Greek | en eng Latn English | eo epo Latn Esperanto | es spa Latn Spanish
et est Latn Estonian | eu eus Latn Basque | fa fas Arab Persian | ff ful Latn Fulah | fi fin Latn Finnish | fil fil Latn Filipino
fj fij Latn Fijian | fo fao Latn Faroese | fon fon Latn Fon | fr fra Latn French | fuc fuc Latn Pulaar | fur fur Latn Friulian
fy fry Latn Western Frisian | ga gle Latn Irish | gd gla Latn Scottish Gaelic | gl glg Latn Galician | gn grn Latn Guarani
gsw gsw Latn Swiss German | gu guj Gujr Gujarati | gv glv Latn Manx | ha hau Latn Hausa | he heb Hebr Hebrew | hi hin Deva Hindi
hmn hmn Latn Hmong | hne hne Deva Chhattisgarhi | ho hmo Latn Hiri Motu | hr hrv Latn Croatian | ht hat Latn Haitian Creole
hu hun Latn Hungarian | hy hye Armn Armenian | hz her Latn Herero | ia ina Latn Interlingua | id ind Latn Indonesian | ie ile Latn Interlingue
ig ibo Latn Igbo | ii iii Latn Sichuan Yi | ik ipk Latn Inupiaq | ilo ilo Latn Ilocano | io ido Latn Ido | is isl Latn Icelandic
it ita Latn Italian | iu iku Latn Inuktitut | ja jpn Jpan Japanese | jv jav Latn Javanese | ka kat Geor Georgian | kab kab Latn Kabyle
kac kac Latn Kachin | kam kam Latn Kamba | kbp kbp Latn Kabiyè | kea kea Latn Kabuverdianu | kg kon Latn Kongo | ki kik Latn Kikuyu
kj kua Latn Kuanyama | kk kaz Cyrl Kazakh | kl kal Latn Kalaallisut | km khm Khmr Khmer | kmb kmb Latn Kimbundu | kn kan Knda Kannada
ko kor Hang Korean | kr kau Latn Kanuri | ks kas Arab Kashmiri | ku kur Latn Kurdish | kv kom Cyrl Komi | kw cor Latn Cornish
ky kir Cyrl Kyrgyz | la lat Latn Latin | lb ltz Latn Luxembourgish | lg lug Latn Luganda | li lim Latn Limburgish | lij lij Latn Ligurian
lmo lmo Latn Lombard | ln lin Latn Lingala | lo lao Laoo Lao | lt lit Latn Lithuanian | ltg ltg Latn Latgalian | lu lub Latn Luba-Katanga
lua lua Latn Luba-Lulua | luo luo Latn Luo | lus lus Latn Mizo | lv lav Latn Latvian | mag mag Deva Magahi | mai mai Deva Maithili
mey mey Arab Hassaniyya | mg mlg Latn Malagasy | mh mah Latn Marshallese | mi mri Latn Maori | min min Latn Minangkabau | mk mkd Cyrl Macedonian
ml mal Mlym Malayalam | mn mon Cyrl Mongolian | mni mni Beng Manipuri | mos mos Latn Mossi | mr mar Deva Marathi | ms msa Latn Malay
mt mlt Latn Maltese | my mya Mymr Burmese | na nau Latn Nauru | nb nob Latn Norwegian Bokmål | nd nde Latn North Ndebele | ne nep Deva Nepali
ng ndo Latn Ndonga | nl nld Latn Dutch | nn nno Latn Norwegian Nynorsk | no nor Latn Norwegian | nr nbl Latn South Ndebele
nso nso Latn Northern Sotho | nus nus Latn Nuer | nv nav Latn Navajo | ny nya Latn Chichewa | oc oci Latn Occitan | oj oji Latn Ojibwe
om orm Latn Oromo | or ori Orya Oriya | os oss Cyrl Ossetic | pa pan Guru Punjabi | pag pag Latn Pangasinan | pap pap Latn Papiamento
pcm pcm Latn Nigerian Pidgin | pi pli Latn Pali | pl pol Latn Polish | prs prs Arab Dari | ps pus Arab Pashto | pt por Latn Portuguese
qu que Latn Quechua | rm roh Latn Romansh | rn run Latn Kirundi | ro ron Latn Romanian | ru rus Cyrl Russian | rw kin Latn Kinyarwanda
sa san Deva Sanskrit | sat sat Olck Santali | sc srd Latn Sardinian | scn scn Latn Sicilian | sd snd Arab Sindhi | se sme Latn Northern Sami
sg sag Latn Sango | sh hbs Latn Serbo-Croatian | shi shi Latn Tachelhit | shn shn Mymr Shan | si sin Sinh Sinhala | sk slk Latn Slovak
sl slv Latn Slovenian | sm smo Latn Samoan | sn sna Latn Shona | so som Latn Somali | sq sqi Latn Albanian | sr srp Cyrl Serbian
ss ssw Latn Swati | st sot Latn Southern Sotho | su sun Latn Sundanese | sv swe Latn Swedish | sw swa Latn Swahili | szl szl Latn Silesian
ta tam Taml Tamil | taq taq Latn Tamasheq | te tel Telu Telugu | tg tgk Cyrl Tajik | th tha Thai Thai | ti tir Ethi Tigrinya
tk tuk Latn Turkmen | tl tgl Latn Tagalog | tn tsn Latn Tswana | to ton Latn Tongan | tpi tpi Latn Tok Pisin | tr tur Latn Turkish
ts tso Latn Tsonga | tt tat Cyrl Tatar | tum tum Latn Tumbuka | tw twi Latn Twi | ty tah Latn Tahitian | tzm tzm Tfng Central Atlas Tamazight
ug uig Arab Uyghur | uk ukr Cyrl Ukrainian | umb umb Latn Umbundu | ur urd Arab Urdu | uz uzb Latn Uzbek | ve ven Latn Venda
vec vec Latn Venetian | vi vie Latn Vietnamese | vo vol Latn Volapük | wa wln Latn Walloon | war war Latn Waray | wo wol Latn Wolof
xh xho Latn Xhosa | yi yid Hebr Yiddish | yo yor Latn Yoruba | yue yue Hant Cantonese | za zha Latn Zhuang | zh zho Hans Chinese
zu zul Latn Zulu
"""
