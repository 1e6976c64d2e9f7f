"""List countries with their capital and continent."""

# One line per continent; each entry is country:capital.
_TABLE: dict[str, str] = {
    "Europe": """France:Paris, Germany:Berlin, Italy:Rome, Spain:Madrid, Portugal:Lisbon,
        Greece:Athens, Poland:Warsaw, Austria:Vienna, Hungary:Budapest, Norway:Oslo,
        Sweden:Stockholm, Finland:Helsinki, Denmark:Copenhagen, Ireland:Dublin,
        Iceland:Reykjavik, Belgium:Brussels, Romania:Bucharest, Bulgaria:Sofia,
        Croatia:Zagreb, Serbia:Belgrade, Ukraine:Kyiv, Estonia:Tallinn, Latvia:Riga,
        Lithuania:Vilnius, Slovakia:Bratislava, Slovenia:Ljubljana, Albania:Tirana,
        Malta:Valletta""",
    "Asia": """Japan:Tokyo, China:Beijing, India:New Delhi, Thailand:Bangkok, Vietnam:Hanoi,
        Mongolia:Ulaanbaatar, Nepal:Kathmandu, Pakistan:Islamabad, Bangladesh:Dhaka,
        Indonesia:Jakarta, Iran:Tehran, Iraq:Baghdad, Jordan:Amman, Lebanon:Beirut,
        Oman:Muscat, Qatar:Doha, Cambodia:Phnom Penh, Laos:Vientiane, Bhutan:Thimphu,
        Afghanistan:Kabul""",
    "Africa": """Egypt:Cairo, Kenya:Nairobi, Nigeria:Abuja, Ghana:Accra, Ethiopia:Addis Ababa,
        Morocco:Rabat, Algeria:Algiers, Tunisia:Tunis, Libya:Tripoli, Senegal:Dakar,
        Uganda:Kampala, Rwanda:Kigali, Zambia:Lusaka, Zimbabwe:Harare, Angola:Luanda,
        Mali:Bamako, Sudan:Khartoum, Somalia:Mogadishu, Namibia:Windhoek,
        Madagascar:Antananarivo""",
    "North America": """Canada:Ottawa, Mexico:Mexico City, Cuba:Havana, Jamaica:Kingston,
        Panama:Panama City, Honduras:Tegucigalpa, Nicaragua:Managua""",
    "South America": """Brazil:Brasilia, Argentina:Buenos Aires, Chile:Santiago, Peru:Lima,
        Colombia:Bogota, Ecuador:Quito, Uruguay:Montevideo, Paraguay:Asuncion,
        Venezuela:Caracas""",
    "Oceania": "Australia:Canberra, New Zealand:Wellington, Fiji:Suva, Samoa:Apia",
}

LANGUAGES: dict[str, str] = {
    "France": "French",
    "Germany": "German",
    "Italy": "Italian",
    "Spain": "Spanish",
    "Portugal": "Portuguese",
    "Greece": "Greek",
    "Poland": "Polish",
    "Hungary": "Hungarian",
    "Norway": "Norwegian",
    "Sweden": "Swedish",
    "Denmark": "Danish",
    "Iceland": "Icelandic",
    "Romania": "Romanian",
    "Bulgaria": "Bulgarian",
    "Japan": "Japanese",
    "China": "Chinese",
    "Thailand": "Thai",
    "Vietnam": "Vietnamese",
    "Egypt": "Arabic",
    "Mexico": "Spanish",
    "Brazil": "Portuguese",
    "Argentina": "Spanish",
    "Chile": "Spanish",
    "Australia": "English",
}


def countries() -> list[tuple[str, str, str]]:
    """Return (country, capital, continent) rows in a fixed order."""
    rows: list[tuple[str, str, str]] = []
    for continent, table in _TABLE.items():
        for entry in table.split(","):
            country, capital = entry.strip().split(":")
            rows.append((country, capital, continent))
    return rows
